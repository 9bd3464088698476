"""The search spaces of the tables, for searches through the whole system.

Tables of NAS-Bench-201 use the built-in space. `TableSpace` is the space of any other table, and `install_space` writes
the package that adds it to eatnas-db.
"""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.cell_space import CELL_PRESETS, OPERATIONS
from eatnas_db.domain.cost import Cost
from eatnas_db.domain.macro import Task
from eatnas_db.domain.space_definition import Primitives, SpaceDefinition
from tables.tables import Code, Table

CELL_TABLE: Final = "nb201_"
"""The names of the tables of NAS-Bench-201 begin with this prefix."""
CELL_SPACE: Final = CELL_PRESETS["nasbench201-cifar"]
CELL_TASK: Final = Task(resolution=32, channels=3, classes=10)
_CELL_VALUES: Final = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
"""The operations in the order of their numbers in the tables."""
_CELL_EDGES: Final = (0, 1, 3, 2, 4, 5)
"""The edges of `CellSpace` in the order of the tables, which list them by the node where they begin."""
assert set(_CELL_VALUES) == set(OPERATIONS)
MAX_PARAMS: Final = 2**40
"""The maximum number of parameters. A network that the table lacks counts as larger, which keeps it out of searches."""


class TableSpace(SpaceDefinition):
    """The codes of a table: each position is a block with one choice, whose values are the numbers in the table."""

    network: ClassVar[str] = "tables.spaces:no_network"

    def __init__(self, table: Table) -> None:
        self._table = table
        self.name = table.name

    @cached_property
    def blocks(self) -> tuple[Primitives, ...]:
        """The values that occur at each position. The first values together are a code of the table."""
        columns = [tuple(sorted(set(column))) for column in zip(*self._table.row_of, strict=True)]
        # Positions with the same values need the same order of values, because the model counts values over positions.
        smallest = next(
            code for code in self._table.row_of if len(set(zip(columns, code, strict=True))) == len(set(columns))
        )
        return tuple(
            {"choice": tuple(map(str, (first, *(value for value in column if value != first))))}
            for column, first in zip(columns, smallest, strict=True)
        )

    def measure(self, architecture: Architecture, task: Task) -> tuple[Cost, int]:
        """Return the cost of a network in the table. If the table has no costs, all its networks cost the same."""
        row = self._table.row_of.get(code_of(architecture))
        if row is None:
            return Cost(MAX_PARAMS + 1, 1), 1
        if self._table.costs is None:
            return Cost(1, 1), 1
        params, mult_adds = self._table.costs[row]
        return Cost(int(params), int(mult_adds)), 1


def no_network(architecture: Architecture, space: SpaceDefinition, task: Task) -> None:
    """Raise an error, because the networks of a table cannot be built."""
    raise NotImplementedError(f"the networks of the table {space.name} cannot be built")


def space_of(table: Table) -> SpaceDefinition:
    """Return the space of a table."""
    return CELL_SPACE if table.name.startswith(CELL_TABLE) else TableSpace(table)


def code_of(architecture: Architecture) -> Code:
    """Return the code of an architecture in its table."""
    values = [str(value) for block in architecture for value in map(block.value, block.primitives)]
    if values[0] in _CELL_VALUES:
        return tuple(_CELL_VALUES.index(values[edge]) for edge in _CELL_EDGES)
    return tuple(map(int, values))


def architecture_of(space: SpaceDefinition, code: Code) -> Architecture:
    """Return the architecture of a code of the table."""
    if space is not CELL_SPACE:
        return space.parse("/".join(map(str, code)))
    operations = {edge: _CELL_VALUES[value] for edge, value in zip(_CELL_EDGES, code, strict=True)}
    return space.parse("/".join(operations[edge] for edge in range(len(code))))


def install_space(site: Path, file: Path) -> str:
    """Return the name of a table's space. If the space needs a package, first write it into a folder on `sys.path`."""
    if file.stem.startswith(CELL_TABLE):
        return CELL_SPACE.name
    package, name = f"eatnas_table_{file.stem}", file.stem
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "top_level.txt").write_text(package)
    (info / "RECORD").write_text("")
    (info / "entry_points.txt").write_text(f"[eatnas_db.spaces]\n{name} = {package}:SPACE\n")
    (site / f"{package}.py").write_text(
        "from pathlib import Path\n\nfrom tables.spaces import TableSpace\nfrom tables.tables import Table\n\n"
        f"SPACE = TableSpace(Table.load(Path({str(file.absolute())!r})))\n"
    )
    if str(site) not in sys.path:
        sys.path.insert(0, str(site))
    return name
