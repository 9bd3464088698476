"""`report`: write a report about a search as one HTML file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import SearchName
from eatnas_cli.sentences import print_sentence
from eatnas_db.atomic_files import atomic_write
from eatnas_db.database.engine import read_connection
from eatnas_db.output_files import require_free

app = new_app()


@app.command()
def report(
    ctx: typer.Context,
    name: SearchName,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.html", help="HTML file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a report about a search as one self-contained HTML file."""
    require_free(output, force=force)
    from eatnas_report.data import load_report_data
    from eatnas_report.page import render_page

    with read_connection(ctx.obj.database_url) as connection:
        findings = load_report_data(connection, name, time.time())
    _write_whole(output, render_page(findings), force)
    print_sentence(f"wrote {output}")


def _write_whole(file: Path, text: str, force: bool) -> None:
    """Write the file atomically, so that no reader sees half a page. Raises `ConflictError` if the file exists."""
    with atomic_write(file) as opened:
        opened.write(text.encode())
        # Check again, because another program may have written the file while this program read the record.
        require_free(file, force=force)
