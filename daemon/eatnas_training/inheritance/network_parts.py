"""Split a network into its convolutions, batch norms and shortcuts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, starmap
from typing import NamedTuple

from torch import nn

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.cost import count_layers
from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.operators import BUILT_IN_OPERATORS, Layer, Operator
from eatnas_training.network import Network, ResidualLayer


class ConvNorm(NamedTuple):
    """A convolution and the batch norm after it."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d

    @property
    def channels(self) -> int:
        """The number of output channels."""
        return self.norm.num_features


@dataclass(frozen=True, slots=True)
class PluginLayer:
    """The layer of an operator from a package."""

    operator: Operator
    layer: Layer
    module: nn.Module

    @property
    def last_norm(self) -> nn.BatchNorm2d | None:
        """The last batch norm if it has weights and as many channels as the layer's output, otherwise None."""
        norms = [part for part in self.module.modules() if isinstance(part, nn.BatchNorm2d)]
        return norms[-1] if norms and norms[-1].affine and norms[-1].num_features == self.layer.outputs else None


@dataclass(frozen=True, slots=True)
class LayerParts:
    """The two convolutions of a SepConv or the three of an MBConv, and the shortcut."""

    body: list[ConvNorm]
    identity: bool = False
    bypass: ConvNorm | None = None
    plugin: PluginLayer | None = None
    """The layer of a plug-in's operator. Such a layer has no other parts."""

    @property
    def separable(self) -> bool:
        """Whether the layer is a SepConv."""
        return len(self.body) == 2

    @property
    def family(self) -> str:
        """The family of the layer. Weights can be copied between layers of the same family."""
        if self.plugin is not None:
            return self.plugin.operator.name
        return "separable" if self.separable else "bottleneck"

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return self.last.channels if self.plugin is None else self.plugin.layer.outputs

    @property
    def last(self) -> ConvNorm:
        """The convolution that gives the output channels."""
        return self.body[-1]


@dataclass(frozen=True, slots=True)
class NetworkParts:
    """Stem, the layers of each block, head and classifier."""

    stem: ConvNorm
    blocks: list[list[LayerParts]]
    head: ConvNorm
    classifier: nn.Linear


def split_network(model: Network, architecture: Architecture, macro: Macro, task: Task) -> NetworkParts:
    """Return the parts of a network, which share its parameters."""
    modules = list(model.features)
    described = [
        (macro.operator(architecture.blocks[position].op), layer)
        for position, layer, _, times in count_layers(architecture, macro, task)
        for _ in range(times)
    ]
    layers = starmap(_split_layer, zip(modules[3:-3], described, strict=True))
    blocks = [list(islice(layers, block.depth)) for block in architecture]
    (stem,), (head,) = _conv_norms(modules[:3]), _conv_norms(modules[-3:])
    return NetworkParts(stem, blocks, head, model.classifier)


def _split_layer(module: nn.Module, described: tuple[Operator, Layer]) -> LayerParts:
    if described[0] not in BUILT_IN_OPERATORS:
        return LayerParts([], plugin=PluginLayer(*described, module))
    if not isinstance(module, ResidualLayer):
        return LayerParts(_conv_norms(module.children()))
    body = _conv_norms(module.body.children())
    if isinstance(module.shortcut, nn.Identity):
        return LayerParts(body, identity=True)
    return LayerParts(body, bypass=_conv_norms(module.shortcut.children())[0])


def _conv_norms(modules: Iterable[nn.Module]) -> list[ConvNorm]:
    modules = list(modules)
    convolutions = (module for module in modules if isinstance(module, nn.Conv2d))
    norms = (module for module in modules if isinstance(module, nn.BatchNorm2d))
    return [ConvNorm(*pair) for pair in zip(convolutions, norms, strict=True)]
