"""MLflow's own pages in a real Chromium show the best run, its curve, its parent and the pictures."""

import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest

from eatnas_daemon.mlflow.client import connect
from support.browser import headless_browser
from support.mlflow_stores import free_port
from support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PAGE_SECONDS = 120
SPEC = """
name: tiny
space: eatnas-tiny
data: {name: digits, train_images: 64, validation_images: 64}
training: {epochs: 2, batch_size: 32}
evolution: {population: 2, tournament: 2, lag: 2}
budget: {candidates: 5}
reevaluation: {top: 0}
"""


@pytest.fixture
def page():
    with headless_browser() as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(1000 * PAGE_SECONDS)
        yield page


@contextmanager
def mlflow_ui(home):
    """Run `eatnas-db mlflow ui`, and yield its URL as soon as it answers."""
    port = free_port()
    command = [sys.executable, "-m", "eatnas_cli", "--home", str(home), "mlflow", "ui", "--port", str(port)]
    with (home / "ui.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home.parent, stdout=log, stderr=log, start_new_session=True)

    def answers():
        assert process.poll() is None, (home / "ui.log").read_text()
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
        except OSError:
            return False

    try:
        eventually(answers, PAGE_SECONDS)
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("record")
def test_links_lead_to_the_best_run_its_parent_and_pictures(home, eatnas, spec, page):
    eatnas("search", "create", spec(SPEC))
    eatnas("run", "tiny", "--slots", "1")
    with mlflow_ui(home) as url:
        client = connect(f"sqlite:///{home / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("eatnas/tiny").experiment_id
        runs = {run.info.run_id: run for run in client.search_runs([experiment])}
        (summary,) = (run for run in runs.values() if "eatnas.summary" in run.data.tags)
        best = runs[summary.data.tags["eatnas.best_run"]]
        child = next(run for run in runs.values() if "mlflow.parentRunId" in run.data.tags)
        parent = runs[child.data.tags["mlflow.parentRunId"]]
        check_run_table(page, f"{url}#/experiments/{experiment}/runs", runs.values())
        follow_links_to_best(page, url, best)
        follow_link_to_parent(page, f"{url}#/experiments/{experiment}/runs/{child.info.run_id}", child, parent)
        artifacts = f"{url}#/experiments/{experiment}/runs/{{}}/artifacts/{{}}"
        check_image(page, artifacts.format(best.info.run_id, "architecture.svg"), "architecture.svg")
        check_image(page, artifacts.format(summary.info.run_id, "quality.png"), "quality.png")
        page.goto("about:blank")
        page.goto(artifacts.format(summary.info.run_id, "report.html"))
        page.frame_locator("iframe").get_by_role("heading", name="Overview").wait_for()


def check_run_table(page, url, runs):
    page.goto(url)
    for run in runs:
        # MLflow hides the runs of children until a reader expands their parent.
        if "mlflow.parentRunId" not in run.data.tags:
            page.get_by_role("link", name=run.info.run_name, exact=True).wait_for()
    page.get_by_text(f"{len(runs)} matching runs").wait_for()


def follow_links_to_best(page, url, best):
    """Follow the links from the experiment's description to the search's run, and from there to the best candidate's
    run.
    """
    # MLflow opens these links in another tab, so the test opens their targets itself.
    page.goto(url + page.get_by_role("link", name="Summary of the search").get_attribute("href"))
    page.get_by_text("finished, 5 of 5 births settled").wait_for()
    birth = f"birth {best.data.tags['eatnas.birth']}"
    page.goto(url + page.get_by_role("link", name=birth).first.get_attribute("href"))
    page.get_by_test_id("runs-header").filter(has_text=best.info.run_name).wait_for()
    page.get_by_role("link", name="val_accuracy", exact=True).first.click()
    page.locator(".js-plotly-plot").first.wait_for()


def follow_link_to_parent(page, url, child, parent):
    page.goto(url)
    title = page.get_by_test_id("runs-header")
    title.filter(has_text=child.info.run_name).wait_for()
    page.get_by_role("link", name=parent.info.run_name, exact=True).first.click()
    title.filter(has_text=parent.info.run_name).wait_for()


def check_image(page, url, name):
    page.goto("about:blank")
    page.goto(url)
    image = page.locator(f"img[alt='{name}']").first
    image.wait_for()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
