"""Write a network as one readable Python module, which needs only torch, safetensors, NumPy and Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from eatnas_db.domain.architecture import Architecture, Block
from eatnas_db.domain.macro import Macro
from eatnas_db.domain.operators import EXPANSION
from eatnas_db.errors import DataError
from eatnas_training.export.description import ModelDescription, Preprocessing
from eatnas_training.network import EPSILON

_HEAD: Final = '''"""Candidate {candidate} of the search {search}, written by eatnas-db.

The weights are in the safetensors file next to this module.

    python FILE.py IMAGE...  # prints the most likely class of each image
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

WEIGHTS = Path(__file__).with_suffix(".safetensors")
MODE = "{mode}"
SIDE = {side}
MEAN = {mean}
DEVIATION = {deviation}


def conv(inputs, outputs, kernel=1, stride=1, groups=1, relu=True):
    """A convolution with batch normalization."""
    padding, options = kernel // 2, {{"groups": groups, "bias": False}}
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, **options),
        nn.BatchNorm2d(outputs, eps={epsilon}),
    ]
    return [*layers, nn.ReLU(inplace=True)] if relu else layers


class Sum(nn.Module):
    """The sum of a body and a shortcut."""

    def __init__(self, body, shortcut):
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, images):
        return self.body(images) + self.shortcut(images)


def sep(inputs, outputs, kernel, stride=1, skip=False):
    """A depthwise separable convolution."""
    body = nn.Sequential(
        *conv(inputs, inputs, kernel, stride, groups=inputs),
        *conv(inputs, outputs),
    )
    same_shape = stride == 1 and inputs == outputs
    return Sum(body, nn.Identity()) if skip and same_shape else body


def mb(inputs, outputs, kernel, expansion, stride=1, skip=False):
    """An inverted residual of MobileNetV2."""
    hidden = expansion * inputs
    body = nn.Sequential(
        *conv(inputs, hidden),
        *conv(hidden, hidden, kernel, stride, groups=hidden),
        *conv(hidden, outputs, relu=False),
    )
    if not skip:
        return body
    if stride == 1 and inputs == outputs:
        return Sum(body, nn.Identity())
    return Sum(body, nn.Sequential(*conv(inputs, outputs, 1, stride, relu=False)))


class Network(nn.Module):
    """Normalized images [N, {channels}, {side}, {side}] to logits [N, {classes}]."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
'''
_REST: Final = '''        )
        self.classifier = nn.Linear({head}, {classes})

    def forward(self, images):
        return self.classifier(self.features(images).mean((2, 3)))


def load(weights=WEIGHTS):
    """Return the trained network in evaluation mode, and the names of its classes."""
    with safe_open(weights, "pt") as file:
        classes = json.loads(file.metadata()["classes"])
    network = Network()
    network.load_state_dict(load_file(weights))
    return network.eval(), classes


{preprocess}

if __name__ == "__main__":
    network, classes = load()
    for path in sys.argv[1:]:
        with torch.inference_mode(), Image.open(path) as image:
            shares = network(preprocess(image)[None]).softmax(1)[0]
        print(f"{{path}}: {{classes[shares.argmax()]}} ({{shares.max():.4f}})")
'''
_CONVERT: Final = '''def convert(image):
    """Return an image in MODE; Pillow alone would clip values of 16 bits and floats."""
    if image.mode == "F" or image.mode.startswith("I"):
        tags = getattr(image, "tag_v2", {})  # of TIFF: 258 is the number of bits
        white = 1 if image.mode == "F" else 2 ** int(np.ravel(tags.get(258, 16))[0]) - 1
        values = np.asarray(image, np.float64) / white
        known = image.mode != "I" or image.format in ("PNG", "PPM")
        known = known and (image.mode == "F" or image.format != "FITS")
        if not (known and values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"mode {image.mode} has no value for white; use 8 bits")
        grey = np.floor(values * 255 + 0.5).astype(np.uint8)
        image = Image.fromarray(255 - grey if tags.get(262) == 0 else grey)
    return image.convert("RGB").convert(MODE)


'''
_RESIZE_ONCE: Final = '''def resize(pixels):
    """Take the center square of [H, W, C] and resize it: antialiased bilinear."""
    square = min(pixels.shape[:2])
    top, left = ((length - square) // 2 for length in pixels.shape[:2])
    pixels = pixels[top : top + square, left : left + square].transpose(2, 0, 1)
    if square == SIDE:
        return pixels
    scale = square / SIDE
    centers = (np.arange(SIDE) + 0.5) * scale - 0.5
    distances = np.abs(centers[:, None] - np.arange(square)) / max(1.0, scale)
    weights = np.maximum(0, 1 - distances)
    weights /= weights.sum(1, keepdims=True)
    return np.rint(weights @ pixels.astype(np.float64) @ weights.T)


def preprocess(image):
    """Return an image of any size as the input of the network, without the batch."""
    pixels = np.atleast_3d(np.asarray(convert(image)))
    values = resize(pixels) / 255
    mean, deviation = (np.array(one)[:, None, None] for one in (MEAN, DEVIATION))
    return torch.tensor((values - mean) / deviation, dtype=torch.float32)
'''
_RESIZE_PILLOW: Final = '''def preprocess(image):
    """Return an image of any size as the input of the network, without the batch."""
    half = min(image.size) * {crop} / 2
    x, y = image.width / 2, image.height / 2
    box = (x - half, y - half, x + half, y + half)
    image = convert(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box)
    values = (np.asarray(image) / 255 - MEAN) / DEVIATION
    return torch.tensor(values.transpose(2, 0, 1), dtype=torch.float32)
'''


def write_module(description: ModelDescription) -> str:
    """Return the source of a module that builds the network and loads its weights."""
    preprocessing, task = description.preprocessing, description.network_task
    macro = description.require_macro("the format python")
    if macro.has_own_operators:
        raise DataError(f"the format python supports only the operators of EAT-NAS; export {description.search} as pt2")
    head = _HEAD.format(
        candidate=description.candidate,
        search=description.search,
        mode=preprocessing.mode,
        side=task.resolution,
        mean=_numbers(preprocessing.mean),
        deviation=_numbers(preprocessing.deviation),
        epsilon=EPSILON,
        channels=task.channels,
        classes=task.classes,
    )
    layers = "".join(f"            {line}\n" for line in _layers(description, macro))
    rest = _REST.format(head=macro.head_channels, classes=task.classes, preprocess=_preprocess(preprocessing))
    return head + layers + rest


def _layers(description: ModelDescription, macro: Macro) -> Iterator[str]:
    yield f"*conv({description.network_task.channels}, {macro.stem_channels}, 3{_stride(macro.stem_stride)}),"
    channels = macro.stem_channels
    for position, block in enumerate(Architecture.parse(description.architecture).blocks):
        out = macro.block_channels(position, block.width)
        yield f"# Block {position + 1}"
        yield f"{_call(block, channels, out, macro.strides[position])},"
        if block.depth == 2:
            yield f"{_call(block, out, out, 1)},"
        elif block.depth > 2:
            yield f"*[{_call(block, out, out, 1)} for _ in range({block.depth - 1})],"
        channels = out
    yield "# Head"
    yield f"*conv({channels}, {macro.head_channels}),"


def _call(block: Block, inputs: int, outputs: int, stride: int) -> str:
    expansion = f", {EXPANSION[block.op]}" if block.op in EXPANSION else ""
    name = "mb" if expansion else "sep"
    skip = ", skip=True" if block.skip else ""
    return f"{name}({inputs}, {outputs}, {block.kernel}{expansion}{_stride(stride)}{skip})"


def _stride(stride: int) -> str:
    return f", stride={stride}" if stride != 1 else ""


def _numbers(values: tuple[float, ...]) -> str:
    return str(tuple(float(f"{value:.9g}") for value in values))


def _preprocess(preprocessing: Preprocessing) -> str:
    if preprocessing.rounding == "pillow":
        return _CONVERT + _RESIZE_PILLOW.format(crop=preprocessing.crop)
    return _CONVERT + _RESIZE_ONCE
