"""The view to which `mlflow ui` links is shown in a real browser."""

import os
import re
import signal
import subprocess
import sys

import pytest

from support.browser import headless_browser
from support.mlflow_stores import free_port
from support.searches import create_home, supervise_search

COLUMNS = ("fitness", "val_accuracy", "mult_adds", "params")
CANDIDATES = 6


def linked_view(process):
    """Wait until MLflow's server has started, and return the link to the runs of the search."""
    link = None
    for line in process.stdout:
        link = link or re.match(r"s by fitness, accuracy and cost: (http\S+)", line)
        if "startup complete" in line:
            break
    assert link is not None
    return link[1]


@pytest.mark.slow
def test_linked_view_shows_fitness_accuracy_and_cost(tmp_path):
    home = create_home(tmp_path / "home", budget__candidates=CANDIDATES)
    supervise_search(home)
    command = [sys.executable, "-m", "eatnas_cli", "--home", str(home.home), "mlflow", "ui", "--port", str(free_port())]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        link = linked_view(process)
        with headless_browser() as browser:
            page = browser.new_page(viewport={"width": 2400, "height": 1000})
            page.goto(link)
            cells = {name: page.locator(f"[role=gridcell][col-id='metrics.`{name}`']") for name in COLUMNS}
            cells["fitness"].first.wait_for(timeout=120_000)
            texts = {name: [text.strip() for text in found.all_inner_texts()] for name, found in cells.items()}
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    # The run of the search itself has no value in these columns.
    shown = {name: [text for text in found if text not in ("", "-")] for name, found in texts.items()}
    assert {name: len(values) for name, values in shown.items()} == dict.fromkeys(COLUMNS, CANDIDATES)
    fitness = [float(value) for value in shown["fitness"]]
    assert fitness == sorted(fitness, reverse=True)
