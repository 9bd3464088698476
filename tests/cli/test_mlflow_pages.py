"""`eatnas-db mlflow ui` and MLflow's own pages in a real Chromium: the runs, their links and pictures, and the view."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager, suppress

import psutil
import pytest

from eatnas_daemon.mlflow.client import connect
from support.browser import headless_browser
from support.mlflow_stores import free_port
from support.searches import create_home, supervise_search
from support.shadowing_files import write_shadowing_files
from support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PAGE_SECONDS = 120
CANDIDATES = 5
SEARCH = {
    "evolution__population": 2,
    "evolution__tournament": 2,
    "evolution__lag": 2,
    "budget__candidates": CANDIDATES,
}
HOSTILE = "what?mode=ro #1 100%20é ~"
COLUMNS = ("fitness", "val_accuracy", "mult_adds", "params")


@pytest.fixture
def page():
    with headless_browser() as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(1000 * PAGE_SECONDS)
        yield page


@pytest.fixture
def settings(tmp_path):
    """Return the settings of a home with a finished search, in a folder whose name has a meaning in URLs."""
    (tmp_path / HOSTILE).mkdir()
    settings = create_home(tmp_path / HOSTILE / "home", **SEARCH)
    supervise_search(settings)
    return settings


@contextmanager
def mlflow_ui(settings, folder):
    """Run `eatnas-db mlflow ui` in a folder. Once it answers, yield its process, its URL and its output."""
    port, output = free_port(), folder / "ui.log"
    command = [sys.executable, "-m", "eatnas_cli", "--home", str(settings.home), "mlflow", "ui", "--port", str(port)]
    with output.open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def answers():
        assert process.poll() is None, output.read_text()
        with suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200

    try:
        eventually(answers, PAGE_SECONDS)
        yield process, f"http://127.0.0.1:{port}/", output
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.timeout(900)
def test_ui_serves_linked_pages_until_it_is_interrupted(tmp_path, settings, page):
    work = tmp_path / "work"
    work.mkdir()
    write_shadowing_files(work, tmp_path / "imported")
    with mlflow_ui(settings, work) as (process, url, output):
        processes = [process, *psutil.Process(process.pid).children(recursive=True)]
        command_lines = [" ".join(psutil.Process(one.pid).cmdline()) for one in processes]
        assert not [line for line in command_lines if "mlflow.db" in line]
        check_pages(page, url, connect(settings.mlflow_uri))
        (link,) = re.findall(r"^s by fitness, accuracy and cost: (http\S+)$", output.read_text(), re.MULTILINE)
        check_view(page, link)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(200) == 0
    assert f"wrote {CANDIDATES} runs to sqlite:///" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == [HOSTILE, "work"]


def check_pages(page, url, client):
    """Require that the pages of the search show its runs, links and pictures."""
    experiment = client.get_experiment_by_name("eatnas/s").experiment_id
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
    page.get_by_text(f"finished, {CANDIDATES} of {CANDIDATES} births settled").wait_for()
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


def check_view(page, link):
    """Require that the view has a column for fitness, accuracy and each cost, and that the fittest run is first."""
    page.goto("about:blank")
    page.set_viewport_size({"width": 2400, "height": 1000})  # MLflow draws only columns within the window
    page.goto(link)
    cells = {name: page.locator(f"[role=gridcell][col-id='metrics.`{name}`']") for name in COLUMNS}
    cells["fitness"].first.wait_for()
    texts = {name: [text.strip() for text in found.all_inner_texts()] for name, found in cells.items()}
    # The run of the search itself has no value in these columns.
    shown = {name: [text for text in found if text not in ("", "-")] for name, found in texts.items()}
    assert {name: len(values) for name, values in shown.items()} == dict.fromkeys(COLUMNS, CANDIDATES)
    fitness = [float(value) for value in shown["fitness"]]
    assert fitness == sorted(fitness, reverse=True)
