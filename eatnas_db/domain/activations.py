"""Count the values that a training holds in memory for each image of a batch.

Every convolution keeps its input for the backward pass, batch norm its input, and ReLU its output, which is also the
input of the next convolution. So a convolution with batch norm and ReLU adds two values for each value of its output.
While the backward pass computes the gradients of a layer, they need memory too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from eatnas_db.domain.architecture import Architecture, Block
from eatnas_db.domain.cost import EXPANSION, output_side
from eatnas_db.domain.macro import Macro, Task

VALIDATION_FACTOR: Final = 4
"""A validation batch is this many times as large as a training batch, since it needs no memory for gradients."""
IMAGE_COPIES: Final = 3
"""Copies of an image while it is normalized."""


@dataclass(slots=True)
class _Activations:
    """Running counts of values per image: those kept until now, and the largest numbers held at once."""

    kept: int
    training: int = 0
    validation: int = 0

    def add_convolution(self, inputs: int, outputs: int, shortcut: int = 0) -> None:
        """Add a convolution with its batch norm, next to which the values of a shortcut must be kept."""
        self.kept += 2 * outputs
        self.training = max(self.training, self.kept + inputs + outputs)
        self.validation = max(self.validation, shortcut + inputs + 2 * outputs)

    def add_sum(self, outputs: int) -> None:
        """Add the sum of a body without a last norm and its shortcut, which the next convolution keeps."""
        self.kept += outputs


def count_activations(architecture: Architecture, macro: Macro, task: Task) -> int:
    """Return the values per image of a training batch that a training holds at its peak, in training or validation.

    Raises `InvalidArchitectureError` if the macro has another number of blocks.
    """
    macro.require_block_count(architecture)
    image = task.channels * task.resolution**2
    side, channels = output_side(task.resolution, macro.stem_stride), macro.stem_channels
    counted = _Activations(kept=image, validation=IMAGE_COPIES * image)
    counted.add_convolution(image, channels * side * side)
    for position, block in enumerate(architecture.blocks):
        outputs = macro.block_channels(position, block.width)
        for layer in range(block.depth):
            after = output_side(side, macro.strides[position] if layer == 0 else 1)
            _add_layer(counted, block, (channels, side), (outputs, after))
            channels, side = outputs, after
    counted.add_convolution(channels * side * side, macro.head_channels * side * side)
    return max(counted.training, VALIDATION_FACTOR * counted.validation)


def _add_layer(counted: _Activations, block: Block, before: tuple[int, int], after: tuple[int, int]) -> None:
    """Add a layer; `before` and `after` are the channels and the side of its input and its output."""
    (inputs, side), (outputs, reduced) = before, after
    source, result = inputs * side**2, outputs * reduced**2
    same_shape = before == after
    if block.op == "sep":
        shortcut = source if block.skip and same_shape else 0
        depthwise = inputs * reduced**2
        counted.add_convolution(source, depthwise, shortcut=0)
        counted.add_convolution(depthwise, result, shortcut=shortcut)
        if shortcut:
            counted.add_sum(result)
        return
    shortcut = source if block.skip else 0
    hidden = EXPANSION[block.op] * inputs
    counted.add_convolution(source, hidden * side**2, shortcut=0)
    counted.add_convolution(hidden * side**2, hidden * reduced**2, shortcut=shortcut)
    counted.add_convolution(hidden * reduced**2, result, shortcut=shortcut)
    if shortcut and not same_shape:
        # The bypass keeps the input of its norm; the sum of both branches replaces the output of the body's last norm.
        counted.add_sum(result)
