"""Options and arguments of several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eatnas_cli.printing import Format

SearchName = Annotated[str, typer.Argument(metavar="NAME", help="Name of a search.")]
CandidateId = Annotated[int, typer.Argument(help="Number of a candidate, as `query best` lists it.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to write the answer.")]

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC.yaml")]
SpecChanges = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")]
PlannedSlots = Annotated[
    int | None,
    typer.Option("--slots", min=1, help="Slots it will run on, which settles the lag; default: this machine's."),
]

PlotFile = Annotated[
    Path | None, typer.Option("--picture", metavar="FILE.png", help="Draw it; .svg and .pdf do as well.")
]
BlockNumber = Annotated[int | None, typer.Option("--block", min=1, help="In this block alone.")]
