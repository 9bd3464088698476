"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from eatnas_cli.printing import Format

MAX_BLOCK: Final = 1000
MAX_ROWS: Final = 1_000_000_000
"""The largest value of an option that counts rows or entries.

A larger value is a mistake, and SQLite's driver raises an error for very large values.
"""

SearchName = Annotated[str, typer.Argument(metavar="NAME", help="Name of a search.")]
CandidateId = Annotated[int, typer.Argument(help="Id of a candidate; `query best` lists ids.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Output format.")]

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="YAML file with the spec of the search.")]
SpecChanges = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value of the spec. Repeatable."),
]
PlannedSlots = Annotated[
    int | None,
    typer.Option(
        "--slots",
        min=1,
        help="Number of slots that the search will use. Unless the spec sets evolution.lag, this number determines how "
        "many births may train at the same time. Default: the slots of this machine.",
    ),
]

PlotFile = Annotated[
    Path | None, typer.Option("--picture", metavar="FILE.png", help="Write a plot to this file (.png, .svg or .pdf).")
]
BlockNumber = Annotated[
    int | None, typer.Option("--block", min=1, max=MAX_BLOCK, help="Show only the block with this number.")
]
