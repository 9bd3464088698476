"""Render all plots and the report of a search into a folder, from which they are copied to MLflow.

This is a separate program, so that a slow or crashing plot cannot harm the process that writes to MLflow. The URL of
the record's database comes from EATNAS_DB_URL. It is not an argument, because it may hold a password.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from eatnas_db.database.engine import read_connection
from eatnas_db.errors import EatnasError
from eatnas_db.queries.lineage import list_scored_births
from eatnas_db.text_encoding import let_output_escape
from eatnas_report.data import load_report_data
from eatnas_report.lineage_plot import draw_lineage
from eatnas_report.page import render_page
from eatnas_report.plots import draw_front, draw_quality


def render_all(database_url: str, name: str, folder: Path) -> None:
    """Write the report, and every plot for which the search has data. Raises `EatnasError`."""
    with read_connection(database_url) as connection:
        data = load_report_data(connection, name, time.time())
        births = list_scored_births(connection, {relative.search for relative in data.lineage})
    (folder / "report.html").write_text(render_page(data), encoding="utf-8")
    if any(step.mean is not None for step in data.steps):
        draw_quality(folder / "quality.png", name, data.steps, over_compute=False)
        draw_quality(folder / "quality-over-compute.png", name, data.steps, over_compute=True)
    if data.front:
        draw_front(folder / "pareto.png", name, "mult_adds", data.tradeoffs, data.front)
    if data.lineage:
        draw_lineage(folder / "lineage.png", data.lineage, births)


def main() -> None:
    """Parse the arguments, and render."""
    parser = argparse.ArgumentParser(prog="python -m eatnas_report.render", description=__doc__)
    parser.add_argument("name", help="name of the search")
    parser.add_argument("folder", type=Path, help="existing folder for the files")
    let_output_escape()
    options = parser.parse_args()
    try:
        render_all(os.environ["EATNAS_DB_URL"], options.name, options.folder)
    except EatnasError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
