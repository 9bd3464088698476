"""The options that lay out a table."""

from __future__ import annotations

from typing import Annotated

import typer

from eatnas_cli.printing import Layout

Columns = Annotated[
    str | None, typer.Option("--columns", metavar="A,B,…", help="Columns to show, separated by commas, in this order.")
]
Wide = Annotated[bool, typer.Option("--wide", help="Show all columns in full, even if they do not fit the terminal.")]


def layout_options(columns: Columns = None, wide: Wide = False) -> Layout:
    """Return the layout of a table."""
    names = () if columns is None else tuple(name.strip() for name in columns.split(","))
    return Layout(tuple(dict.fromkeys(names)), wide)


def width_options(wide: Wide = False) -> Layout:
    """Return the layout of an answer about one object."""
    return Layout(wide=wide)
