"""Operators: the computation of a block's layers, with their cost, their torch modules and their weight inheritance.

`sep`, `mb3` and `mb6` are the operators of EAT-NAS. A package adds operators through an entry point in the group
`eatnas_db.operators`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from eatnas_db.errors import PluginError

EXPANSION: Final = {"mb3": 3, "mb6": 6}


class Layer(NamedTuple):
    """A layer of a block, from `inputs` channels of `side` x `side` pixels to `outputs` channels.

    `skip` is true if the block asks for a shortcut. Only the first layer of a block has a `stride` above 1.
    """

    kernel: int
    skip: bool
    inputs: int
    outputs: int
    side: int
    stride: int

    @property
    def output_side(self) -> int:
        """The side of the output in pixels."""
        return output_side(self.side, self.stride)

    @property
    def keeps_shape(self) -> bool:
        """Whether the output has the shape of the input, so that the shortcut can be an identity."""
        return self.stride == 1 and self.inputs == self.outputs

    def describe(self) -> str:
        """Return the layer in words, for a message."""
        return (
            f"a layer of {self.inputs} to {self.outputs} channels with kernel {self.kernel}, side {self.side}, "
            f"stride {self.stride} and {'a' if self.skip else 'no'} skip"
        )


class Part(NamedTuple):
    """The cost of one part of a layer for one image.

    `kept`: the number of values that the part keeps for the backward pass. `held`: the number of further values that
    are in memory while a training step computes the part. `validation`: the number of values that are in memory while a
    validation step computes the part.
    """

    params: int
    mult_adds: int
    kept: int
    held: int = 0
    validation: int = 0


class LayerCost(NamedTuple):
    """The cost of a layer: sums over its parts, and the largest number of values in memory during a training or
    validation step.
    """

    params: int
    mult_adds: int
    kept: int
    training: int
    validation: int


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """A named operator: the computation of a block's layers.

    `count` is a pure function without torch, which returns the parts of a layer in the order of their computation.
    `module` is the reference `module:name` of a function or class that returns the `torch.nn.Module` of a layer. Only
    workers import `module`. `inherit` is the reference of a function that copies weights from a parent's layer to its
    child's layer and returns the number of copied elements. If `inherit` is None, the child's layer keeps its initial
    weights.
    """

    name: str
    count: Callable[[Layer], Iterable[Part]]
    module: str
    inherit: str | None = None


def output_side(side: int, stride: int) -> int:
    """Return the side of a convolution's output.

    Only the stride reduces the side, because the padding is `kernel // 2`.
    """
    return (side - 1) // stride + 1


def convolution(
    kernel: int, inputs: int, outputs: int, side: int, *, stride: int = 1, groups: int = 1, beside: int = 0
) -> Part:
    """Return the cost of a bias-free convolution and its batch norm. A ReLU after the batch norm adds no cost.

    `side` is the side of the input in pixels. `beside` is the number of values of a shortcut that stay in memory during
    the convolution.
    """
    after = output_side(side, stride)
    weights = kernel * kernel * inputs * outputs // groups
    read, written = inputs * side * side, outputs * after * after
    return Part(
        params=weights + 2 * outputs,
        mult_adds=weights * after * after,
        kept=2 * written,
        held=read + written,
        validation=beside + read + 2 * written,
    )


@lru_cache(maxsize=65536)
def count_layer(operator: Operator, layer: Layer) -> LayerCost:
    """Return the cost of a layer."""
    params = mult_adds = kept = training = validation = 0
    for part in operator.count(layer):
        params += part.params
        mult_adds += part.mult_adds
        kept += part.kept
        training = max(training, kept + part.held)
        validation = max(validation, part.validation)
    cost = LayerCost(params, mult_adds, kept, training, validation)
    if not all(isinstance(value, int) and value >= 0 for value in cost):
        counted = ", ".join(f"{name} {value!r}" for name, value in cost._asdict().items())
        raise PluginError(
            f"operator {operator.name} counts {counted} for {layer.describe()}; each must be a whole number, at least 0"
        )
    return cost


def _count_separable(layer: Layer) -> list[Part]:
    result = layer.outputs * layer.output_side**2
    shortcut = layer.inputs * layer.side**2 if layer.skip and layer.keeps_shape else 0
    parts = [
        convolution(layer.kernel, layer.inputs, layer.inputs, layer.side, stride=layer.stride, groups=layer.inputs),
        convolution(1, layer.inputs, layer.outputs, layer.output_side, beside=shortcut),
    ]
    # The next convolution keeps its input, which is the sum of the body and its shortcut.
    return [*parts, Part(0, 0, kept=result)] if shortcut else parts


def _count_bottleneck(expansion: int) -> Callable[[Layer], list[Part]]:
    def count(layer: Layer) -> list[Part]:
        hidden, after = expansion * layer.inputs, layer.output_side
        shortcut = layer.inputs * layer.side**2 if layer.skip else 0
        parts = [
            convolution(1, layer.inputs, hidden, layer.side),
            convolution(layer.kernel, hidden, hidden, layer.side, stride=layer.stride, groups=hidden, beside=shortcut),
            convolution(1, hidden, layer.outputs, after, beside=shortcut),
        ]
        if layer.skip and not layer.keeps_shape:
            # The bypass keeps the input of its batch norm. The sum of both branches adds nothing: it takes the place of
            # the output of the body's batch norm.
            bypass = convolution(1, layer.inputs, layer.outputs, after)
            parts.append(Part(bypass.params, bypass.mult_adds, kept=layer.outputs * after**2))
        return parts

    return count


BUILT_IN_OPERATORS: Final = (
    Operator("sep", _count_separable, "eatnas_training.network:separable_layer"),
    *(
        Operator(name, _count_bottleneck(expansion), f"eatnas_training.network:{name}_layer")
        for name, expansion in EXPANSION.items()
    ),
)
"""The operators of EAT-NAS, in ascending order of cost. `eatnas_training.inheritance` copies the weights of all three.
"""
