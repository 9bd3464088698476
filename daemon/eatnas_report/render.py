"""Everything that can be drawn of a search, into one folder: what MLflow's summary run shows.

A program of its own (`python -m eatnas_report.render NAME FOLDER`), started by MLflow's follower, which must
neither wait for a picture nor die of one. The record's address may hold a password, so it comes by `EATNAS_DB_URL`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from eatnas_db.database.engine import viewing
from eatnas_db.errors import EatnasError
from eatnas_report.data import collect
from eatnas_report.lineage_plot import draw_family
from eatnas_report.page import page
from eatnas_report.plots import draw_front, draw_quality


def draw_all(database_url: str, name: str, folder: Path) -> None:
    """Write the report, and those pictures for which there is something to show. Raises `EatnasError`."""
    with viewing(database_url) as connection:
        found = collect(connection, name, time.time())
    (folder / "report.html").write_text(page(found), encoding="utf-8")
    if any(step.mean is not None for step in found.steps):
        draw_quality(folder / "quality.png", name, found.steps, over_compute=False)
        draw_quality(folder / "quality-over-compute.png", name, found.steps, over_compute=True)
    if found.front:
        draw_front(folder / "pareto.png", name, "mult_adds", found.cloud, found.front)
    if found.lineage:
        draw_family(folder / "lineage.png", found.lineage)


def main() -> None:
    """Draw what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m eatnas_report.render", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    try:
        draw_all(os.environ["EATNAS_DB_URL"], options.name, options.folder)
    except EatnasError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
