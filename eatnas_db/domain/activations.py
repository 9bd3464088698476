"""Count the values that a training holds in memory for each image of a batch.

For the backward pass, a convolution and a batch norm keep their inputs, and a ReLU keeps its output, which is also the
input of the next convolution. Therefore, a convolution with batch norm and ReLU adds two values for each value of its
output. While the backward pass computes the gradients of a layer, the gradients also need memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from eatnas_db.domain.cost import CountedLayer, count_layers
from eatnas_db.domain.operators import convolution, output_side

if TYPE_CHECKING:
    from eatnas_db.domain.architecture import Architecture
    from eatnas_db.domain.macro import Macro, Task

VALIDATION_FACTOR: Final = 4
"""A validation batch is this many times as large as a training batch, because validation needs no memory for gradients.
"""
IMAGE_COPIES: Final = 3
"""The number of copies of an image that are in memory while the image is normalized."""


def count_activations(architecture: Architecture, macro: Macro, task: Task) -> int:
    """Return the number of values that a training holds at its peak, divided by the batch size of training.

    The peak may be in a training step or in a validation step. Raises `InvalidArchitectureError` if the architecture
    and the macro differ in their number of blocks.
    """
    macro.require_block_count(architecture)
    return sum_activations(count_layers(architecture, macro, task), macro, task)


def sum_activations(layers: Iterable[CountedLayer], macro: Macro, task: Task) -> int:
    """Return the same number as `count_activations` for a network with these layers between its stem and its head."""
    image = task.channels * task.resolution**2
    stem = convolution(3, task.channels, macro.stem_channels, task.resolution, stride=macro.stem_stride)
    kept = image + stem.kept
    training, validation = kept + stem.held, max(IMAGE_COPIES * image, stem.validation)
    channels, side = macro.stem_channels, output_side(task.resolution, macro.stem_stride)
    for _, layer, cost, times in layers:
        # Each of several equal layers keeps its values, so memory peaks in the last of these layers.
        training = max(training, kept + (times - 1) * cost.kept + cost.training)
        validation = max(validation, cost.validation)
        kept += times * cost.kept
        channels, side = layer.outputs, layer.output_side
    head = convolution(1, channels, macro.head_channels, side)
    training, validation = max(training, kept + head.kept + head.held), max(validation, head.validation)
    return max(training, VALIDATION_FACTOR * validation)
