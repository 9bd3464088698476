"""What a user finds in MLflow's own pages, in a real Chromium: the best run, its curve, its parent, the pictures."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest

from eatnas_daemon.mlflow.client import connect

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120
"""Seconds for a page on a busy machine."""
SPEC = """
name: tiny
space: eatnas-tiny
data: {name: digits, train_images: 64, validation_images: 64}
training: {epochs: 2, batch_size: 32}
evolution: {population: 2, tournament: 2, lag: 2}
budget: {candidates: 5}
yardstick: {top: 0}
"""


@pytest.fixture
def view():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; `apt-get install chromium` brings one")
    # Chromium refuses root a sandbox.
    options = ["--disable-background-networking", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(1000 * PATIENCE)
        yield page
        browser.close()


@contextmanager
def pages(home):
    """`eatnas-db mlflow ui`, until it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [sys.executable, "-m", "eatnas_cli", "--home", str(home), "mlflow", "ui", "--port", str(port)]
    with (home / "ui.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home.parent, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None, (home / "ui.log").read_text()
                assert time.monotonic() < deadline, "nobody answers"
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("record")
def test_the_best_run_its_curve_and_its_parent_are_found_by_following_links(home, eatnas, spec, view):
    eatnas("search", "create", spec(SPEC))
    eatnas("run", "tiny", "--slots", "1")
    with pages(home) as address:
        client = connect(f"sqlite:///{home / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("eatnas/tiny").experiment_id
        runs = {run.info.run_id: run for run in client.search_runs([experiment])}
        (summary,) = (run for run in runs.values() if "eatnas.summary" in run.data.tags)
        best = runs[summary.data.tags["eatnas.best_run"]]
        child = next(run for run in runs.values() if "mlflow.parentRunId" in run.data.tags)
        parent = runs[child.data.tags["mlflow.parentRunId"]]

        # The table of the runs.
        view.goto(f"{address}#/experiments/{experiment}/runs")
        # Children lie folded under their parents.
        for run in runs.values():
            if "mlflow.parentRunId" not in run.data.tags:
                view.get_by_role("link", name=run.info.run_name, exact=True).wait_for()
        view.get_by_text(f"{len(runs)} matching runs").wait_for()

        # The description leads to the whole, and that to the best. (MLflow opens such links in a tab of their own.)
        view.goto(address + view.get_by_role("link", name="Summary of the search").get_attribute("href"))
        view.get_by_text("finished, 5 of 5 births settled").wait_for()
        words = f"birth {best.data.tags['eatnas.birth']}"
        view.goto(address + view.get_by_role("link", name=words).first.get_attribute("href"))
        title = view.get_by_test_id("runs-header")
        title.filter(has_text=best.info.run_name).wait_for()
        view.get_by_role("link", name="val_accuracy", exact=True).first.click()
        view.locator(".js-plotly-plot").first.wait_for()

        # The parent, by MLflow's own link.
        view.goto(f"{address}#/experiments/{experiment}/runs/{child.info.run_id}")
        title.filter(has_text=child.info.run_name).wait_for()
        view.get_by_role("link", name=parent.info.run_name, exact=True).first.click()
        title.filter(has_text=parent.info.run_name).wait_for()

        # The pictures, drawn by the browser.
        for run_id, picture in ((best.info.run_id, "architecture.svg"), (summary.info.run_id, "quality.png")):
            view.goto("about:blank")
            view.goto(f"{address}#/experiments/{experiment}/runs/{run_id}/artifacts/{picture}")
            shown = view.locator(f"img[alt='{picture}']").first
            shown.wait_for()
            assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
        view.goto("about:blank")
        view.goto(f"{address}#/experiments/{experiment}/runs/{summary.info.run_id}/artifacts/report.html")
        view.frame_locator("iframe").get_by_role("heading", name="Overview").wait_for()
