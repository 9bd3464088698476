"""Count the parameters and mult-adds of an architecture without building the network.

The counts follow the authors' code. Parameters are all trainable ones, including batch-norm's gamma and beta and the
bias of the classifier. Mult-adds are those of convolutions and the classifier, without batch-norm, bias and pooling.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Macro, Task

EXPANSION: Final = {"mb3": 3, "mb6": 6}


@dataclass(frozen=True, slots=True)
class Cost:
    """The trainable parameters of a network, and its mult-adds for one image."""

    params: int
    mult_adds: int


def compute_cost(architecture: Architecture, macro: Macro, task: Task) -> Cost:
    """Count one network. Raises `InvalidArchitectureError` if the macro has another number of blocks."""
    macro.require_block_count(architecture)
    side = output_side(task.resolution, macro.stem_stride)
    channels = macro.stem_channels
    params, mult_adds = _convolution(3, task.channels, channels, side)
    for position, block in enumerate(architecture.blocks):
        out = macro.block_channels(position, block.width)
        stride = macro.strides[position]
        first = _layer(block.op, block.kernel, block.skip, channels, out, side, stride)
        side = output_side(side, stride)
        params += first[0]
        mult_adds += first[1]
        if block.depth > 1:
            further = _layer(block.op, block.kernel, block.skip, out, out, side, 1)
            params += (block.depth - 1) * further[0]
            mult_adds += (block.depth - 1) * further[1]
        channels = out
    head = _convolution(1, channels, macro.head_channels, side)
    classifier = macro.head_channels * task.classes
    return Cost(params + head[0] + classifier + task.classes, mult_adds + head[1] + classifier)


def output_side(side: int, stride: int) -> int:
    """Return the side of a convolution's output. The padding is k // 2, so only the stride reduces the side."""
    return (side - 1) // stride + 1


def _convolution(kernel: int, inputs: int, outputs: int, side: int) -> tuple[int, int]:
    """Count a full convolution with its batch-norm, for an output of `side` x `side` pixels."""
    weights = kernel * kernel * inputs * outputs
    return weights + 2 * outputs, weights * side * side


def _depthwise(kernel: int, channels: int, side: int) -> tuple[int, int]:
    weights = kernel * kernel * channels
    return weights + 2 * channels, weights * side * side


@lru_cache(maxsize=65536)
def _layer(op: str, kernel: int, skip: bool, inputs: int, outputs: int, side: int, stride: int) -> tuple[int, int]:
    after = output_side(side, stride)
    if op == "sep":
        parts = [_depthwise(kernel, inputs, after), _convolution(1, inputs, outputs, after)]
    else:
        hidden = EXPANSION[op] * inputs
        parts = [
            _convolution(1, inputs, hidden, side),
            _depthwise(kernel, hidden, after),
            _convolution(1, hidden, outputs, after),
        ]
        if skip and (stride != 1 or inputs != outputs):
            parts.append(_convolution(1, inputs, outputs, after))
    return sum(params for params, _ in parts), sum(mult_adds for _, mult_adds in parts)
