"""`report`: one page with everything in it, opened in a real browser where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from sqlalchemy import insert, update

from eatnas_db import provenance, transitions
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import NotFoundError
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.create import create_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.transfer import create_transfer
from eatnas_db.settings import load_settings
from eatnas_migrations import commands
from eatnas_report.data import load_report_data
from eatnas_report.figures.lineage import lineage_figures
from eatnas_report.figures.population import quality_figures
from eatnas_report.figures.training import failure_figures
from eatnas_report.page import render_page

EVIL = "<script>evil = 1</script>"
NOW = 100_000.0
UNDER = provenance.Provenance("p", {}, "data", {"torch": EVIL}, "cpu", "none")
TREE = {
    "name": "small",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "evolution": {"population": 6, "tournament": 3, "lag": 3},
    "budget": {"candidates": 40},
    "yardstick": {"top": 0},
}
FIGURES = [
    "quality-over-births",
    "quality-over-compute",
    "front",
    "lineage",
    *(f"primitives-{primitive}" for primitive in ("op", "kernel", "depth", "width", "skip")),
    "failures",
    "utilisation",
]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def train(engine, search_id, budget):
    """The bookkeeping of a whole search; every seventh candidate fails."""
    for number in range(budget):
        now = float(10 * number)
        with transaction(engine) as connection:
            leased = transitions.lease_next(connection, search_id, host_id=1, worker_id=1, now=now)
            token, fitness = leased.token, 0.5 + (number * 37 % 100) / 250
            if number % 7 == 6:
                kind = FailureKind.DIVERGED
                transitions.record_failure(connection, token, kind, f"{EVIL} \x1b[1m{'long' * 200}", now=now + 9)
            else:
                transitions.record_score(
                    connection,
                    token,
                    fitness=fitness,
                    metrics={"val_accuracy": fitness},
                    seed=7,
                    provenance=UNDER,
                    device_seconds=9.0,
                    now=now + 9,
                )
            advance_search(connection, lock_search(connection, search_id), now + 9)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A small search, a large one that was transferred from it and has a hostile name, and one not begun."""
    settings = load_settings({}, str(tmp_path_factory.mktemp("report") / "home"))
    settings.home.mkdir()
    commands.upgrade(create_engine_for(settings.database_url))
    engine = open_record(settings.database_url)
    more = {"task": Task(8, 1, 10), "data_digest": "data", "slots": 1, "now": 0.0}
    with transaction(engine) as connection:
        connection.execute(insert(host).values(id=1, name=EVIL, seen_at=0))
        connection.execute(insert(device).values(id=1, host_id=1, uuid="cpu:here", kind="cpu", name="processor"))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=0))
        small = create_search(connection, parse_spec(TREE, {}), **more)
    train(engine, small, 40)
    with transaction(engine) as connection:
        large = create_transfer(connection, "small", parse_spec(TREE, {"name": "large", "seed": 2}), **more)
        create_search(connection, parse_spec(TREE, {"name": "new"}), **more)
    train(engine, large, 40)
    with transaction(engine) as connection:
        connection.execute(update(search).where(search.c.name == "large").values(name=EVIL))
    engine.dispose()
    return settings


@pytest.fixture(scope="module")
def found(settings):
    def look(name=EVIL):
        engine = open_record(settings.database_url)
        with read_transaction(engine) as connection:
            findings = load_report_data(connection, name, NOW)
        engine.dispose()
        return findings

    return look


class Elements(HTMLParser):
    """The elements of a page, their attributes, and what a reader reads."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self._in = [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in not in ("script", "style"):
            self.words += data


def test_a_page_has_every_figure_and_needs_no_address(found):
    text = render_page(found())
    elements = Elements(text).elements
    assert "default-src 'none'" in text
    assert [given["id"] for tag, given in elements if given.get("class") == "plot"] == FIGURES
    addresses = [value for _, given in elements for key, value in given.items() if key in ("src", "href", "action")]
    assert addresses == ["data:,"]


def test_what_users_wrote_is_text_and_never_markup(found):
    text = render_page(found())
    # Two scripts of ours, and a figure's data each; nothing else, in whatever disguise.
    assert [given.get("type") for tag, given in Elements(text).elements if tag == "script"] == [
        *["application/json"] * len(FIGURES),
        None,
        None,
    ]
    assert EVIL not in text
    assert EVIL in Elements(text).words
    assert "\x1b" not in text


def test_the_glance_tells_status_budget_best_and_fingerprint(found):
    findings = found("small")
    words = Elements(render_page(findings)).words
    for told in ("finished", "40 of 40", findings.fingerprint.sha256, f"{findings.fittest.fitness:.4f}"):
        assert told in words


def test_what_the_test_part_said_is_told_once_it_was_looked_at(found):
    findings = found("small")
    assert "test accuracy" not in Elements(render_page(findings)).words
    best = replace(findings.best, yardstick=0.6, yardstick_spread=0.01, test=0.5678, test_spread=0.02, test_seeds=3)
    words = Elements(render_page(replace(findings, best=best, top=(best, *findings.top[1:])))).words
    assert "0.5678 ± 0.0200, 3 final models" in words


def test_of_a_very_long_search_the_fingerprint_is_left_to_its_own_command(found):
    findings = replace(found("small"), fingerprint=None)
    assert "eatnas-db query fingerprint small" in Elements(render_page(findings)).words


def test_the_lineage_runs_back_into_the_source_and_shows_blocks_and_changes(found):
    findings = found()
    (drawing,) = lineage_figures(findings)
    told = {trace.name: trace for trace in drawing.plot.data if trace.name}
    assert {"small", "&lt;script&gt;evil = 1&lt;/script&gt;", "elastic transfer", "other children"} <= set(told)
    changed = next(one for one in findings.lineage if one.changes and one.search == EVIL)
    hovers = [text for trace in told.values() for text in trace.hovertext or ()]
    hover = next(text for text in hovers if text.startswith(f"<b>{changed.id}</b>"))
    assert changed.changes[0] in hover
    assert hover.count("<br>") >= 9
    assert "◀" in hover


def test_what_is_sampled_says_so_and_is_the_same_each_time(found):
    findings = found("small")
    many = replace(findings, steps=findings.steps * 100)
    first, second = quality_figures(many), quality_figures(many)
    assert "The figure shows an even sample of 1,000 of 4,000 steps." in first[0].caption
    assert len(first[0].plot.data[1].x) == 1000
    assert first[0].plot.to_json() == second[0].plot.to_json()
    assert "sample" not in quality_figures(findings)[0].caption


def test_lines_differ_in_dash_and_bars_in_pattern(found):
    findings = found()
    lines = quality_figures(findings)[0].plot.data[1:]
    assert len({line.line.dash for line in lines}) == len({line.line.color for line in lines}) == len(lines)
    bars = failure_figures(findings)[0].plot.data
    assert len({bar.marker.pattern.shape for bar in bars}) == len(bars)


def test_a_search_that_has_not_begun_has_a_page_without_figures(found):
    elements = Elements(render_page(found("new")))
    assert not [given for _, given in elements.elements if given.get("class") == "plot"]
    assert "No candidate has a score yet." in elements.words


def test_a_search_that_is_not_there_has_no_report(found):
    with pytest.raises(NotFoundError):
        found("nobody")


def test_the_command_writes_a_whole_file_and_overwrites_none_unasked(eatnas, settings, tmp_path):
    file = tmp_path / "r.html"
    assert eatnas("report", "small", "-o", str(file), at=settings.home) == f"{file} written\n"
    whole = file.read_text(encoding="utf-8")
    assert whole.endswith("</html>\n")
    file.write_text("mine")
    assert "--force overwrites it" in eatnas("report", "small", "-o", str(file), at=settings.home, expect=1)
    assert file.read_text() == "mine"
    eatnas("report", "small", "-o", str(file), "--force", at=settings.home)
    assert len(file.read_text(encoding="utf-8")) == len(whole)
    assert [one.name for one in tmp_path.iterdir()] == ["r.html"]


def test_nothing_is_left_where_a_report_cannot_be_written(eatnas, settings, tmp_path):
    assert "no folder" in eatnas("report", "small", "-o", "away/r.html", at=settings.home, expect=1)
    assert "is a folder" in eatnas("report", "small", "-o", str(tmp_path), at=settings.home, expect=1)
    assert "no search named" in eatnas("report", "nobody", "-o", "r.html", at=settings.home, expect=1)
    # A file may not grow beyond so many kilobytes, as on a full disk.
    command = [sys.executable, "-m", "eatnas_cli", "--home", str(settings.home), "report", "small", "-o", "r.html"]
    limited = f"trap '' XFSZ; ulimit -f 1000; exec {subprocess.list2cmdline(command)}"
    done = subprocess.run(["sh", "-c", limited], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def opened(tmp_path):
    """Opens a page in a headless Chromium, and tells what it complained of and asked the network for."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; `apt-get install chromium` brings one")
    # Chromium refuses root a sandbox.
    options = ["--disable-background-networking", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)

        def open_page(text):
            file = tmp_path / "report.html"
            file.write_text(text, encoding="utf-8")
            view = browser.new_page(viewport={"width": 1200, "height": 900})
            complaints, requests = [], []
            view.on("console", lambda message: complaints.append(message.text))
            view.on("pageerror", lambda error: complaints.append(str(error)))
            view.on("request", lambda request: requests.append(request.url))
            view.goto(file.as_uri())
            return view, complaints, requests

        yield open_page
        browser.close()


@pytest.mark.slow
def test_a_browser_draws_every_figure_without_a_complaint_or_a_request(found, opened):
    view, complaints, requests = opened(render_page(found()))
    for name in FIGURES:
        view.wait_for_selector(f"#{name} .main-svg :is(.trace, .hm)", state="attached")
        assert view.locator(f"#{name}").bounding_box()["height"] > 100
    assert view.evaluate("typeof evil") == "undefined"
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert view.pdf(format="A4").startswith(b"%PDF")
    assert (complaints, len(requests)) == ([], 1)


@pytest.mark.slow
def test_hovering_over_an_ancestor_shows_its_blocks_and_what_changed(found, opened):
    findings = found()
    view, complaints, _ = opened(render_page(findings))
    best = view.locator("#lineage .scatterlayer .trace").last.locator(".points path").last
    best.scroll_into_view_if_needed()
    box = best.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    view.mouse.move(middle[0] - 40, middle[1] + 40)
    view.mouse.move(*middle)
    words = view.locator("#lineage .hoverlayer .hovertext").text_content()
    assert all(change in words for change in findings.lineage[0].changes)
    assert "block  op   kernel  skip  depth  width" in words
    assert EVIL in words
    view.locator("#lineage .legendtoggle").first.click()
    assert complaints == []


@pytest.mark.slow
def test_the_browser_refuses_every_script_but_our_own(found, opened):
    view, complaints, _ = opened(render_page(found("new")).replace("<main>", "<main><script>evil = 1</script>"))
    assert view.evaluate("typeof evil") == "undefined"
    assert ["Content Security Policy" in complaint for complaint in complaints] == [True]
