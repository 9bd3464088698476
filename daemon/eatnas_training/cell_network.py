"""The networks of the search space of NAS-Bench-201."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.cell_space import EDGES, KERNELS, NONE, CellSpace
from eatnas_db.domain.macro import Task
from eatnas_training.network import EPSILON, MOMENTUM, Classifier, Convolution, Network, ResidualLayer

NODES = 4


class Cell(nn.Module):
    """A cell of the network. For each edge whose operation is not `none`, `edges` has a module with the name
    `NUMBER_OPERATION`.
    """

    def __init__(self, operations: list[str], channels: int) -> None:
        super().__init__()
        self.sources = [
            [(f"{number}_{operations[number]}", source) for number, (source, end) in enumerate(EDGES) if end == node]
            for node in range(NODES)
        ]
        self.edges = nn.ModuleDict(
            {
                f"{number}_{operation}": _edge(operation, channels)
                for number, operation in enumerate(operations)
                if operation != NONE
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the value of the last node."""
        nodes = [images]
        for sources in self.sources[1:]:
            values = [self.edges[name](nodes[source]) for name, source in sources if name in self.edges]
            nodes.append(sum(values[1:], values[0]) if values else images.new_zeros(()) * images)
        return nodes[-1]


def build(architecture: Architecture, space: CellSpace, task: Task) -> Network:
    """Return the network of `architecture`; its weights are unset until `network.initialize`."""
    operations = [str(block.value("op")) for block in space.effective(architecture)]
    stem = [Convolution(task.channels, space.channels, 3), _norm(space.channels)]
    parts: list[nn.Module] = [*stem]
    stages = space.stages(task)
    for before, stage in pairwise([None, *stages]):
        assert stage is not None
        if before is not None:
            parts.append(_reduction(stage.inputs, stage.channels))
        parts += [Cell(operations, stage.channels) for _ in range(space.cells)]
    parts += [_norm(stages[-1].channels), nn.ReLU(inplace=True)]
    return Network(nn.Sequential(*parts), Classifier(stages[-1].channels, task.classes))


def _reduction(inputs: int, outputs: int) -> ResidualLayer:
    """Return a residual block that halves the side of its input."""
    body = nn.Sequential(*_conv_norm(inputs, outputs, 3, 2), *_conv_norm(outputs, outputs, 3))
    return ResidualLayer(body, nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), Convolution(inputs, outputs)))


def _edge(operation: str, channels: int) -> nn.Module:
    if operation in KERNELS:
        return nn.Sequential(*_conv_norm(channels, channels, KERNELS[operation]))
    if operation == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return nn.Identity()


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [nn.ReLU(), Convolution(inputs, outputs, kernel, stride), _norm(outputs)]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, EPSILON, MOMENTUM)
