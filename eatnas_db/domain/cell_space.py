"""The space of NAS-Bench-201: one cell of four nodes and six edges. Each edge has an operation.

A network has a stem and three stages of equal cells. A residual block between two stages halves the side and doubles
the channels. The value of a node is the sum of the outputs of its incoming edges. An edge applies its operation to an
earlier node.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.cost import Cost
from eatnas_db.domain.operators import convolution, output_side
from eatnas_db.domain.space_definition import Primitives, SpaceDefinition

if TYPE_CHECKING:
    from eatnas_db.domain.macro import Task

NONE: Final = "none"
OPERATIONS: Final = (NONE, "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
"""The operations of an edge, in ascending order of cost."""
KERNELS: Final = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
EDGES: Final = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""The nodes that each edge connects; the edges are in the order of the benchmark's strings."""
STAGES: Final = 3


class Stage(NamedTuple):
    """The channels and the side (in pixels) of a stage's cells, and of its input (`inputs` and `input_side`)."""

    channels: int
    side: int
    inputs: int
    input_side: int


@dataclass(frozen=True)
class CellSpace(SpaceDefinition):
    """A space of cells, with the channels of the first stage and the number of cells in each stage."""

    name: str
    channels: int
    cells: int

    network: ClassVar[str] = "eatnas_training.cell_network:build"
    inheritance: ClassVar[str | None] = "eatnas_training.inheritance.equal_tensors:inherit_equal_tensors"

    @cached_property
    def blocks(self) -> tuple[Primitives, ...]:
        """The operation of each edge."""
        return ({"op": OPERATIONS},) * len(EDGES)

    def to_json(self) -> dict[str, Any]:
        """Return the space as plain JSON values."""
        return asdict(self)

    def effective(self, architecture: Architecture) -> Architecture:
        """Return the architecture with `none` on each edge that lies on no path from the input to the output."""
        self.require_block_count(architecture)
        used = list(zip(EDGES, architecture.blocks, strict=True))
        reached, needed = {0}, {3}
        for (source, target), block in used:
            if source in reached and block.value("op") != NONE:
                reached.add(target)
        for (source, target), block in reversed(used):
            if target in needed and block.value("op") != NONE:
                needed.add(source)
        return Architecture(
            tuple(
                block if source in reached and target in needed else block.with_value("op", NONE)
                for (source, target), block in used
            )
        )

    def stages(self, task: Task) -> list[Stage]:
        """Return the stages of a network on a task."""
        stages = [Stage(self.channels, task.resolution, self.channels, task.resolution)]
        for _ in range(1, STAGES):
            before = stages[-1]
            stages.append(Stage(2 * before.channels, output_side(before.side, 2), before.channels, before.side))
        return stages

    def measure(self, architecture: Architecture, task: Task) -> tuple[Cost, int]:
        """Return the cost of the network, and the peak number of values per image that a training holds in memory."""
        operations = [str(block.value("op")) for block in self.effective(architecture)]
        stages = self.stages(task)
        parts = [convolution(3, task.channels, self.channels, task.resolution)]
        plain_params = plain_mult_adds = 0
        for stage in stages:
            if stage.inputs != stage.channels:
                parts += [
                    convolution(3, stage.inputs, stage.channels, stage.input_side, stride=2),
                    convolution(3, stage.channels, stage.channels, stage.side),
                ]
                # The shortcut has no batch norm.
                plain_params += stage.inputs * stage.channels
                plain_mult_adds += stage.inputs * stage.channels * stage.side**2
            cell = [
                convolution(KERNELS[operation], stage.channels, stage.channels, stage.side)
                for operation in operations
                if operation in KERNELS
            ]
            parts += self.cells * cell
        last = stages[-1]
        plain_params += 2 * last.channels + (last.channels + 1) * task.classes
        plain_mult_adds += last.channels * task.classes
        params = plain_params + sum(part.params for part in parts)
        mult_adds = plain_mult_adds + sum(part.mult_adds for part in parts)
        # For the backward pass, an edge keeps its output, and a convolution keeps its input and the input of its batch
        # norm.
        nodes = self.cells * len(EDGES) * sum(stage.channels * stage.side**2 for stage in stages)
        kept = task.channels * task.resolution**2 + nodes + sum(part.kept for part in parts)
        return Cost(params, mult_adds), kept + max(part.held for part in parts)


CELL_PRESETS: Final = {
    space.name: space
    for space in (
        CellSpace("nasbench201-cifar", channels=16, cells=5),
        CellSpace("nasbench201-tiny", channels=4, cells=1),
    )
}
