"""Count the parameters and mult-adds of an architecture without building the network.

The counts follow the authors' code. They cover all trainable parameters, including gamma and beta of batch norm and the
bias of the classifier. They cover the mult-adds of convolutions and the classifier, but not of batch norm, bias and
pooling.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from eatnas_db.domain.operators import EXPANSION, Layer, LayerCost, convolution, count_layer, output_side

if TYPE_CHECKING:
    from eatnas_db.domain.architecture import Architecture
    from eatnas_db.domain.macro import Macro, Task

__all__ = ["EXPANSION", "Cost", "CountedLayer", "compute_cost", "count_layers", "output_side", "sum_costs"]


@dataclass(frozen=True, slots=True)
class Cost:
    """The trainable parameters of a network, and its mult-adds for one image."""

    params: int
    mult_adds: int


class CountedLayer(NamedTuple):
    """`times` equal layers of the block at `position` (from 0), and the cost of each layer."""

    position: int
    layer: Layer
    cost: LayerCost
    times: int


def compute_cost(architecture: Architecture, macro: Macro, task: Task) -> Cost:
    """Return the cost of a network.

    Raises `InvalidArchitectureError` if the architecture and the macro differ in their number of blocks.
    """
    macro.require_block_count(architecture)
    return sum_costs(count_layers(architecture, macro, task), macro, task)


def sum_costs(layers: Iterable[CountedLayer], macro: Macro, task: Task) -> Cost:
    """Return the cost of the network with these layers between its stem and its head."""
    stem = convolution(3, task.channels, macro.stem_channels, task.resolution, stride=macro.stem_stride)
    params, mult_adds = stem.params, stem.mult_adds
    channels, side = macro.stem_channels, output_side(task.resolution, macro.stem_stride)
    for _, layer, cost, times in layers:
        params += times * cost.params
        mult_adds += times * cost.mult_adds
        channels, side = layer.outputs, layer.output_side
    head = convolution(1, channels, macro.head_channels, side)
    classifier = macro.head_channels * task.classes
    return Cost(params + head.params + classifier + task.classes, mult_adds + head.mult_adds + classifier)


def count_layers(architecture: Architecture, macro: Macro, task: Task) -> Iterator[CountedLayer]:
    """Yield the layers of every block in order. Equal layers of a block are yielded as one item with the number of
    these layers.
    """
    side = output_side(task.resolution, macro.stem_stride)
    channels = macro.stem_channels
    for position, block in enumerate(architecture.blocks):
        operator, out = macro.operator(block.op), macro.block_channels(position, block.width)
        first = Layer(block.kernel, block.skip, channels, out, side, macro.strides[position])
        yield CountedLayer(position, first, count_layer(operator, first), 1)
        side, channels = first.output_side, out
        if block.depth > 1:
            further = Layer(block.kernel, block.skip, out, out, side, 1)
            yield CountedLayer(position, further, count_layer(operator, further), block.depth - 1)
