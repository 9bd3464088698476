"""`report` writes one page that needs no other files. If Chromium is installed, a test opens the page in it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from sqlalchemy import insert, update

from eatnas_db import provenance, transitions
from eatnas_db.database.engine import create_engine_for, open_record, read_connection
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import NotFoundError
from eatnas_db.queries.learning_curves import list_learning_curves
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.create import create_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.transfer import create_transfer
from eatnas_db.settings import load_settings
from eatnas_db.training_record import EpochRecord, record_epochs
from eatnas_migrations import commands
from eatnas_report.data import load_report_data
from eatnas_report.figures.learning import learning_figures
from eatnas_report.figures.lineage import lineage_figures
from eatnas_report.figures.population import quality_figures
from eatnas_report.figures.training import failure_figures
from eatnas_report.page import render_page
from eatnas_report.parts import draw_best_architectures
from support.browser import headless_browser
from support.waiting import eventually

HOSTILE = "<script>evil = 1</script>"
URL_ATTRIBUTES = ("src", "href", "action")
NOW = 100_000.0
PROVENANCE = provenance.Provenance("p", {}, "data", {"torch": HOSTILE}, "cpu", "none")
TREE = {
    "name": "small",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "evolution": {"population": 6, "tournament": 3, "lag": 3},
    "budget": {"candidates": 40},
    "reevaluation": {"top": 0},
}
FIGURES = [
    "quality-over-births",
    "quality-over-compute",
    *(f"curves-{name}" for name in ("metric", "train-loss", "val-loss")),
    "front",
    "lineage",
    *(f"primitives-{primitive}" for primitive in ("op", "kernel", "depth", "width", "skip")),
    "failures",
    "utilisation",
]


def train(engine, search_id, budget):
    """Record a whole search without training. Every seventh candidate fails."""
    for number in range(budget):
        now = float(10 * number)
        with transaction(engine) as connection:
            leased = transitions.lease_next(connection, search_id, host_id=1, worker_id=1, now=now)
            token, fitness = leased.token, 0.5 + (number * 37 % 100) / 250
            epochs = [
                EpochRecord(epoch, 2.0, 0.4, 1.9, fitness / (2 - epoch), 0.1, 4.0, now + epoch) for epoch in (0, 1)
            ]
            record_epochs(connection, token, epochs, now=now)
            if number % 7 == 6:
                kind = FailureKind.DIVERGED
                transitions.record_failure(connection, token, kind, f"{HOSTILE} \x1b[1m{'long' * 200}", now=now + 9)
            else:
                transitions.record_score(
                    connection,
                    token,
                    fitness=fitness,
                    metrics={"val_accuracy": fitness},
                    seed=7,
                    provenance=PROVENANCE,
                    device_seconds=9.0,
                    now=now + 9,
                )
            advance_search(connection, lock_search(connection, search_id), now + 9)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Return a home with a search, a transfer that has a hostile name, and a search that has not been trained."""
    settings = load_settings({}, str(tmp_path_factory.mktemp("report") / "home"))
    settings.home.mkdir()
    commands.upgrade(create_engine_for(settings.database_url))
    engine = open_record(settings.database_url)
    more = {"task": Task(8, 1, 10), "data_digest": "data", "slots": 1, "now": 0.0}
    with transaction(engine) as connection:
        connection.execute(insert(host).values(id=1, name=HOSTILE, seen_at=0))
        connection.execute(insert(device).values(id=1, host_id=1, uuid="cpu:here", kind="cpu", name="processor"))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=0))
        small = create_search(connection, parse_spec(TREE, {}), **more)
    train(engine, small, 40)
    with transaction(engine) as connection:
        large = create_transfer(connection, "small", parse_spec(TREE, {"name": "large", "seed": 2}), **more)
        create_search(connection, parse_spec(TREE, {"name": "new"}), **more)
    train(engine, large, 40)
    with transaction(engine) as connection:
        connection.execute(update(search).where(search.c.name == "large").values(name=HOSTILE))
    engine.dispose()
    return settings


@pytest.fixture(scope="module")
def load_data(settings):
    """Return a function that reads the data of a report."""

    def load(name=HOSTILE):
        engine = open_record(settings.database_url)
        with read_transaction(engine) as connection:
            data = load_report_data(connection, name, NOW)
        engine.dispose()
        return data

    return load


class PageParser(HTMLParser):
    """Collects the elements of a page with their attributes, and its visible text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self._tag = [], "", None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._tag = tag

    def handle_endtag(self, tag):
        self._tag = None

    def handle_data(self, data):
        if self._tag not in ("script", "style"):
            self.text += data

    @property
    def figures(self):
        return [attributes["id"] for _, attributes in self.elements if attributes.get("class") == "plot"]


@pytest.mark.slow
def test_page_has_every_figure_and_loads_nothing(load_data):
    html = render_page(load_data())
    page = PageParser(html)
    assert "default-src 'none'" in html
    assert page.figures == FIGURES
    urls = [value for _, attributes in page.elements for key, value in attributes.items() if key in URL_ATTRIBUTES]
    assert urls == ["data:,"]


@pytest.mark.slow
def test_text_of_users_is_escaped(load_data):
    html = render_page(load_data())
    page = PageParser(html)
    # The page has a script for the data of each figure, a script with plotly, and a script that draws the figures.
    scripts = [attributes.get("type") for tag, attributes in page.elements if tag == "script"]
    assert scripts == [*["application/json"] * len(FIGURES), None, None]
    assert HOSTILE not in html
    assert HOSTILE in page.text


def test_unprintable_characters_are_replaced(load_data):
    html = render_page(load_data())
    assert "\x1b" not in html
    assert "\N{REPLACEMENT CHARACTER}[1mlong" in html


def test_overview_shows_status_budget_best_and_fingerprint(load_data):
    data = load_data("small")
    text = PageParser(render_page(data)).text
    for expected in ("finished", "40 of 40", data.fingerprint.sha256, f"{data.fittest.fitness:.4f}"):
        assert expected in text


def test_test_accuracy_is_shown_once_it_exists(load_data):
    data = load_data("small")
    assert "test accuracy" not in PageParser(render_page(data)).text
    best = replace(data.best, reevaluation=0.6, reevaluation_spread=0.01, test=0.5678, test_spread=0.02, test_seeds=3)
    text = PageParser(render_page(replace(data, best=best, top=(best, *data.top[1:])))).text
    assert "0.5678 ± 0.0200, 3 final models" in text


def test_missing_fingerprint_is_replaced_by_its_command(load_data):
    data = replace(load_data("small"), fingerprint=None)
    assert "run eatnas-db query fingerprint small" in PageParser(render_page(data)).text


def test_lineage_shows_the_source_search_blocks_and_mutations(load_data):
    data = load_data()
    (figure,) = lineage_figures(data)
    traces = {trace.name: trace for trace in figure.plot.data if trace.name}
    assert {"small", "&lt;script&gt;evil = 1&lt;/script&gt;", "elastic transfer", "other children"} <= set(traces)
    changed = next(relative for relative in data.lineage if relative.changes and relative.search == HOSTILE)
    hover_texts = [text for trace in traces.values() for text in trace.hovertext or ()]
    hover_text = next(text for text in hover_texts if text.startswith(f"<b>{changed.id}</b>"))
    assert changed.changes[0] in hover_text
    assert hover_text.count("<br>") >= 9
    assert "◀" in hover_text


def test_samples_are_announced_and_deterministic(load_data):
    data = load_data("small")
    long = replace(data, steps=data.steps * 100)
    first, second = quality_figures(long), quality_figures(long)
    assert "The figure shows an even sample of 1,000 of 4,000 steps." in first[0].caption
    assert len(first[0].plot.data[1].x) == 1000
    assert first[0].plot.to_json() == second[0].plot.to_json()
    assert "sample" not in quality_figures(data)[0].caption


def test_lines_differ_in_dash_and_bars_in_pattern(load_data):
    data = load_data()
    lines = quality_figures(data)[0].plot.data[1:]
    assert len({line.line.dash for line in lines}) == len({line.line.color for line in lines}) == len(lines)
    bars = failure_figures(data)[0].plot.data
    assert len({bar.marker.pattern.shape for bar in bars}) == len(bars)


def test_learning_curves_are_those_of_the_best_candidates(load_data):
    data = load_data("small")
    metric, *losses = learning_figures(data)
    assert [trace.name for trace in metric.plot.data] == [str(candidate.id) for candidate in data.top]
    assert list(metric.plot.data[0].y) == [data.top[0].fitness / 2, data.top[0].fitness]
    assert [list(figure.plot.data[0].y) for figure in losses] == [[2.0, 2.0], [1.9, 1.9]]


def test_long_learning_curves_are_samples_with_their_end(settings, load_data):
    data = load_data("small")
    with read_connection(settings.database_url) as connection:
        (curve,) = list_learning_curves(connection, [data.best.id], "val_accuracy", max_points=1)
        other = list_learning_curves(connection, [data.best.id], "words_per_minute")
    assert [(point.epochs, point.metric) for point in curve.points] == [(2, data.best.fitness)]
    assert [point.metric for point in other[0].points] == [None, None]


def test_best_architectures_are_drawn(load_data):
    data = load_data("small")
    first, second = draw_best_architectures(data)
    assert first.svg.lstrip().startswith("<svg")
    assert f"candidate {data.best.id}, birth {data.best.birth}" in first.svg
    assert first.caption.startswith(f"Number 1: fitness {data.best.fitness:.4f}")
    assert second.svg != first.svg


def test_search_without_trainings_has_no_figures(load_data):
    page = PageParser(render_page(load_data("new")))
    assert not page.figures
    assert "No candidate has a score yet." in page.text


def test_unknown_search_has_no_report(load_data):
    with pytest.raises(NotFoundError):
        load_data("nobody")


@pytest.mark.slow
def test_command_overwrites_a_file_only_with_force(eatnas, settings, tmp_path):
    file = tmp_path / "r.html"
    assert eatnas("report", "small", "-o", str(file), at=settings.home) == f"wrote {file}\n"
    html = file.read_text(encoding="utf-8")
    assert html.endswith("</html>\n")
    file.write_text("mine")
    assert "--force overwrites it" in eatnas("report", "small", "-o", str(file), at=settings.home, expect=1)
    assert file.read_text() == "mine"
    eatnas("report", "small", "-o", str(file), "--force", at=settings.home)
    assert len(file.read_text(encoding="utf-8")) == len(html)
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.slow
def test_failed_command_leaves_no_file(eatnas, settings, tmp_path):
    assert "does not exist" in eatnas("report", "small", "-o", "away/r.html", at=settings.home, expect=1)
    assert "is a folder" in eatnas("report", "small", "-o", str(tmp_path), at=settings.home, expect=1)
    assert "no search named" in eatnas("report", "nobody", "-o", "r.html", at=settings.home, expect=1)
    # A limit on the size of files imitates a full disk.
    command = [sys.executable, "-m", "eatnas_cli", "--home", str(settings.home), "report", "small", "-o", "r.html"]
    limited = f"trap '' XFSZ; ulimit -f 1000; exec {subprocess.list2cmdline(command)}"
    done = subprocess.run(["sh", "-c", limited], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def open_in_browser(tmp_path):
    """Return a function that opens HTML in Chromium, and returns the page, its console messages and errors, and the
    URLs that it requested.
    """
    with headless_browser() as browser:

        def open_page(html):
            file = tmp_path / "report.html"
            file.write_text(html, encoding="utf-8")
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            messages, requests = [], []
            page.on("console", lambda message: messages.append(message.text))
            page.on("pageerror", lambda error: messages.append(str(error)))
            page.on("request", lambda request: requests.append(request.url))
            page.goto(file.as_uri())
            return page, messages, requests

        yield open_page


@pytest.mark.slow
def test_browser_draws_every_figure_without_errors_or_requests(load_data, open_in_browser):
    page, messages, requests = open_in_browser(render_page(load_data()))
    for name in FIGURES:
        page.wait_for_selector(f"#{name} .main-svg :is(.trace, .hm)", state="attached")
        assert page.locator(f"#{name}").bounding_box()["height"] > 100
    assert page.evaluate("typeof evil") == "undefined"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    heights = [page.locator(f"#{name} .main-svg").first.bounding_box()["height"] for name in FIGURES]
    page.set_viewport_size({"width": 390, "height": 844})
    # Do not use `wait_for_function`: it evaluates a string in the page, which the page's security policy forbids.
    eventually(lambda: page.locator("#front .main-svg").first.bounding_box()["width"] < 390)
    assert heights == [page.locator(f"#{name} .main-svg").first.bounding_box()["height"] for name in FIGURES]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.pdf(format="A4").startswith(b"%PDF")
    assert (messages, len(requests)) == ([], 1)


@pytest.mark.slow
def test_hovering_over_an_ancestor_shows_blocks_and_mutations(load_data, open_in_browser):
    data = load_data()
    page, messages, _ = open_in_browser(render_page(data))
    best = page.locator("#lineage .scatterlayer .trace").last.locator(".points path").last
    best.scroll_into_view_if_needed()
    box = best.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle[0] - 40, middle[1] + 40)
    page.mouse.move(*middle)
    hover_text = page.locator("#lineage .hoverlayer .hovertext").text_content()
    assert all(change in hover_text for change in data.lineage[0].changes)
    assert "block  op   kernel  skip  depth  width" in hover_text
    assert HOSTILE in hover_text
    page.locator("#lineage .legendtoggle").first.click()
    assert messages == []


@pytest.mark.slow
def test_browser_refuses_scripts_without_a_digest(load_data, open_in_browser):
    html = render_page(load_data("new")).replace("<main>", "<main><script>evil = 1</script>")
    page, messages, _ = open_in_browser(html)
    assert page.evaluate("typeof evil") == "undefined"
    assert ["Content Security Policy" in message for message in messages] == [True]
