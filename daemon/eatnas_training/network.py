"""The network of an architecture under a macro, and its initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.cost import count_layers
from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.operators import EXPANSION, Layer
from eatnas_db.plugins import Plugin

EPSILON: Final = 2e-5
MOMENTUM: Final = 0.1
LINEAR_DEVIATION: Final = 0.01
SAFE_CHANNELS: Final = 8
"""The number of input channels from which oneDNN computes strided 1x1 convolutions without the error in `forward`
below.
"""


class Convolution(nn.Conv2d):
    """A convolution without bias that pads by k // 2. Its weights are unset until `initialize`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)

    def reset_parameters(self) -> None:
        """Do nothing: torch's initialization takes time and draws from the global generator."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the convolved images."""
        stride = self.stride[0]
        if self.kernel_size == (1, 1) and stride > 1 and self.in_channels < SAFE_CHANNELS:
            # On CPUs without AVX-512, oneDNN's weight gradient of this shape writes past its workspace (oneDNN issue
            # 6035). Therefore subsample the images first, which gives the same bits. Subsample by pooling, because the
            # gradient of a slice has a different memory format, which would change the bits of earlier layers.
            return functional.conv2d(functional.avg_pool2d(images, 1, stride), self.weight)
        return super().forward(images)


class Classifier(nn.Linear):
    """The last, linear layer. Its weights are unset until `initialize`."""

    def reset_parameters(self) -> None:
        """Do nothing, like `Convolution.reset_parameters`."""


class ResidualLayer(nn.Module):
    """The sum of a body and a shortcut: `[N, in, H, W]` to `[N, out, H / stride, W / stride]`."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, images: Tensor) -> Tensor:
        """Return the sum of the body and the shortcut."""
        total: Tensor = self.body(images) + self.shortcut(images)
        return total


class Network(nn.Module):
    """Stem, layers, head, global average pooling and classifier: `[N, channels, H, W]` to logits `[N, classes]`."""

    def __init__(self, features: nn.Sequential, classifier: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `[N, classes]`. In every precision, pooling and classifier compute in float32."""
        features: Tensor = self.features(images)
        if features.dtype != torch.bfloat16:
            return self._classify(features)
        # In bfloat16, several classes often have equal logits, so the predicted class would be arbitrary.
        with torch.autocast(features.device.type, enabled=False):
            return self._classify(features.float())

    def _classify(self, features: Tensor) -> Tensor:
        # Use a mean instead of AdaptiveAvgPool2d, whose backward pass is not deterministic on CUDA.
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def build(architecture: Architecture, macro: Macro, task: Task) -> Network:
    """Return the network of `architecture`; its weights are unset until `initialize`.

    Raises `InvalidArchitectureError` if the architecture and the macro differ in their number of blocks.
    """
    macro.require_block_count(architecture)
    channels = macro.stem_channels
    parts = _with_norm(Convolution(task.channels, channels, 3, macro.stem_stride), relu=True)
    for position, layer, _, times in count_layers(architecture, macro, task):
        build_layer = _load(macro.operator(architecture.blocks[position].op).module)
        parts += [build_layer(layer) for _ in range(times)]
        channels = layer.outputs
    parts += _with_norm(Convolution(channels, macro.head_channels), relu=True)
    return Network(nn.Sequential(*parts), Classifier(macro.head_channels, task.classes))


def initialize(network: nn.Module, seed: int) -> None:
    """Set every weight and buffer as a function of `seed`. Convolutions get Kaiming normal weights (fan out).

    The draws come from a private generator on the CPU, so initialize a network before you move it to its device.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.kernel_size[0] ** 2 // module.groups
                module.weight.normal_(0, math.sqrt(2 / fan_out), generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0, LINEAR_DEVIATION, generator=generator)
                if module.bias is not None:  # a plug-in's layer may have no bias
                    module.bias.zero_()


def separable_layer(layer: Layer) -> nn.Module:
    """Return a layer of the operator `sep`."""
    inputs, outputs = layer.inputs, layer.outputs
    body = nn.Sequential(
        *_with_norm(Convolution(inputs, inputs, layer.kernel, layer.stride, groups=inputs), relu=True),
        *_with_norm(Convolution(inputs, outputs), relu=True),
    )
    return ResidualLayer(body, nn.Identity()) if layer.skip and layer.keeps_shape else body


def mb3_layer(layer: Layer) -> nn.Module:
    """Return a layer of the operator `mb3`."""
    return _bottleneck_layer(layer, EXPANSION["mb3"])


def mb6_layer(layer: Layer) -> nn.Module:
    """Return a layer of the operator `mb6`."""
    return _bottleneck_layer(layer, EXPANSION["mb6"])


def _bottleneck_layer(layer: Layer, expansion: int) -> nn.Module:
    inputs, outputs, hidden = layer.inputs, layer.outputs, expansion * layer.inputs
    body = nn.Sequential(
        *_with_norm(Convolution(inputs, hidden), relu=True),
        *_with_norm(Convolution(hidden, hidden, layer.kernel, layer.stride, groups=hidden), relu=True),
        *_with_norm(Convolution(hidden, outputs), relu=False),
    )
    if not layer.skip:
        return body
    bypass = _with_norm(Convolution(inputs, outputs, 1, layer.stride), relu=False)
    return ResidualLayer(body, nn.Identity() if layer.keeps_shape else nn.Sequential(*bypass))


@cache
def _load(reference: str) -> Callable[[Layer], nn.Module]:
    loaded: Callable[[Layer], nn.Module] = Plugin(reference, reference).load()
    return loaded


def _with_norm(convolution: Convolution, *, relu: bool) -> list[nn.Module]:
    norm = nn.BatchNorm2d(convolution.out_channels, EPSILON, MOMENTUM)
    return [convolution, norm, nn.ReLU(inplace=True)] if relu else [convolution, norm]
