"""The parts of the live page follow the record, and a real browser shows the page without errors."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn
from sqlalchemy import update
from starlette.testclient import TestClient

from eatnas_cli.web.access import AccessRules
from eatnas_cli.web.answer_cache import AnswerCache, TaggedBody
from eatnas_cli.web.server import build_app, open_socket
from eatnas_daemon.daemon_lock import hold_record
from eatnas_db.database.transactions import transaction
from eatnas_db.schema.record import REVISION
from eatnas_db.schema.searches import search
from eatnas_db.settings import Settings
from eatnas_db.training_record import EpochRecord, record_epochs
from eatnas_db.transitions import lease_next, record_failure
from eatnas_report.data import ReportPart
from support.browser import headless_browser
from support.recorded_search import FailureKind, Record, make_record
from support.searches import create_home
from support.waiting import eventually

if TYPE_CHECKING:
    from conftest import Server
    from playwright.sync_api import Browser, Page

HOSTILE = "<script>evil = 1</script>"
WIDTHS = {"desktop": 1200, "phone": 390}
SUPERVISE = """
import sys
from pathlib import Path
from eatnas_daemon.daemon_lock import hold_record
from eatnas_db.settings import load_settings
from support.searches import SIMULATED_WORKER, supervise_search
settings = load_settings({}, sys.argv[1])
with hold_record(settings):
    supervise_search(settings, program=(*SIMULATED_WORKER, "--seconds-per-epoch", "0.05", "--fail-on", "3"))
"""


def sqlite_record(folder: Path, births: int = 24, name: str = "small") -> Record:
    return make_record(folder, lambda home: f"sqlite:///{home / 'eatnas.db'}", births=births, name=name)


def new_client(settings: Settings) -> TestClient:
    return TestClient(build_app(settings, AccessRules("localhost", 80), "1"), base_url="http://localhost")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    record = sqlite_record(tmp_path_factory.mktemp("live") / "home")
    with transaction(record.engine) as connection:
        connection.execute(update(search).values(name=HOSTILE))
    return record


@pytest.fixture(scope="module")
def client(record: Record) -> TestClient:
    return new_client(record.settings)


def test_list_leads_to_the_page_of_each_search(client: TestClient) -> None:
    page = client.get("/").text
    assert "/search?name=%3Cscript%3Eevil%20%3D%201%3C/script%3E" in page
    assert "24 of 24" in page
    shown = client.get("/search", params={"name": HOSTILE})
    assert shown.status_code == 200
    assert HOSTILE not in shown.text
    assert "&lt;script&gt;" in shown.text


@pytest.mark.parametrize("part", ReportPart)
def test_each_part_is_sent_once_until_it_changes(client: TestClient, part: str) -> None:
    address = {"name": HOSTILE, "part": part}
    answer = client.get("/live/search", params=address)
    fragment = answer.json()
    assert (answer.status_code, HOSTILE in fragment["html"]) == (200, False)
    assert all(f'id="{figure}"' in fragment["html"] for figure in fragment["plots"])
    tag = {"If-None-Match": answer.headers["etag"]}
    assert client.get("/live/search", params=address, headers=tag).status_code in {304, 200 * (part == "utilisation")}


def test_page_of_an_unknown_search_names_the_known_ones(client: TestClient) -> None:
    answer = client.get("/search?name=nobody")
    assert answer.status_code == 404
    assert "no search named" in answer.text
    for address, field in (("name=nobody&part=top", None), ("name=x&part=y", "part"), ("part=top", "name")):
        error = client.get(f"/live/search?{address}").json()["error"]
        assert (error["field"], error["status"]) == (field, 422 if field else 404)


@pytest.mark.parametrize(
    ("address", "status", "field", "message"),
    [
        ("/live/activity?name=nobody", 404, None, "no search named 'nobody'"),
        ("/live/activity?name=", 422, "name", "needs the parameter name"),
        ("/live/activity?search=small", 422, "search", "it has: name"),
        ("/live/activity?name=%00", 422, "name", "not valid text"),
        ("/live/searches?name=small", 422, "name", "it has none"),
        ("/live/search?name=a&name=b&part=top", 422, "name", "given twice"),
        ("/live/candidate?candidate=999", 404, None, "no candidate 999"),
        ("/live/candidate?candidate=0", 404, None, "no candidate 0"),
        ("/live/candidate?candidate=best", 422, "candidate", "whole number"),
        ("/live/candidate?candidate=" + 5000 * "9", 404, None, "5000 digits"),
        ("/live/candidate", 422, "candidate", "needs the parameter candidate"),
        ("/live/nothing", 404, None, "/docs lists the paths of the API"),
    ],
)
def test_mistake_in_an_address_is_reported_in_one_line(
    client: TestClient, address: str, status: int, field: str | None, message: str
) -> None:
    error = client.get(address).json()["error"]
    assert (error["status"], error["field"]) == (status, field), error
    assert message in error["message"]
    if not address.startswith("/live/nothing"):
        page = client.get(address.replace("/live/", "/").replace("/activity", "/search").replace("/searches", "/"))
        assert page.status_code in {404, 422}
        assert "Traceback" not in page.text


def test_message_shortens_long_texts_of_the_request(client: TestClient) -> None:
    long = 3000 * "é"
    for address in (f"/api/query/best?name={long}", f"/live/activity?name={long}", f"/api/search/list?{long}=1"):
        error = client.get(address).json()["error"]
        assert len(error["message"]) < 500
        assert len(error["field"] or "") <= 80
        assert "éé…éé" in error["message"]
    assert len(client.get(f"/search?name={long}").text) < 20_000


def test_candidate_page_shows_the_values_of_candidate_show(record: Record, client: TestClient) -> None:
    top = client.get("/live/search", params={"name": HOSTILE, "part": "top"}).json()["html"]
    candidate = int(top.partition("/candidate?candidate=")[2].partition('"')[0])
    page = client.get(f"/candidate?candidate={candidate}")
    details = client.get(f"/api/candidate/show?candidate={candidate}").json()
    assert page.status_code == 200
    assert HOSTILE not in page.text
    for value in (details["state"], f"{details['fitness']:.4f}", f"{details['params']:,}", *details["changes"]):
        assert str(value) in page.text
    assert f"/api/candidate/show?candidate={candidate}" in page.text
    fragment = client.get(f"/live/candidate?candidate={candidate}")
    assert set(fragment.json()["plots"]) == {"curves-metric", "curves-train-loss", "curves-val-loss", "lineage"}
    assert f"/candidate?candidate={details['parent_id']}" in page.text or details["parent_id"] is None
    tag = {"If-None-Match": fragment.headers["etag"]}
    assert client.get(f"/live/candidate?candidate={candidate}", headers=tag).status_code == 304


@pytest.mark.parametrize("part", ["overview", "top", "lineage", "failures"])
def test_candidates_in_a_part_lead_to_their_pages(client: TestClient, part: str) -> None:
    html = client.get("/live/search", params={"name": HOSTILE, "part": part}).json()["html"]
    addresses = set(re.findall(r'href="(/candidate[^"]*)"', html))
    assert addresses
    assert {client.get(address).status_code for address in addresses} == {200}


def test_readers_of_one_version_share_an_answer() -> None:
    built: list[str] = []
    cache = AnswerCache(size=2)

    def build(tag: str, version: str) -> str:
        return cache.read(tag, lambda: built.append(tag) or TaggedBody(version, f"body {version}"))

    assert [build("a", "a"), build("a", "a"), build("b", "newer"), build("b", "b")] == [
        "body a",
        "body a",
        "body newer",
        "body b",
    ]
    build("c", "c"), build("a", "a")  # the cache holds two answers
    assert built == ["a", "b", "b", "c", "a"]


def test_unreadable_record_gives_one_line_until_it_is_back(tmp_path: Path) -> None:
    record = sqlite_record(tmp_path / "home", births=3)
    client, file = new_client(record.settings), record.settings.database_file
    assert file is not None
    record.engine.dispose()
    whole = file.read_bytes()
    older = whole.replace(REVISION.encode(), b"0" * len(REVISION))
    addresses = ["/", "/search?name=small", "/candidate?candidate=1", "/live/activity", "/live/searches"]
    addresses += ["/live/search?name=small&part=top", "/live/candidate?candidate=1", "/api/search/list"]
    for damaged in (None, b"", b"no database\n" * 1000, older, whole[: len(whole) // 2]):
        file.unlink(missing_ok=True)
        if damaged is not None:
            file.write_bytes(damaged)
        for address in addresses:
            answer = client.get(address)
            assert answer.status_code in {200, 503}, (address, damaged and damaged[:20], answer.text)
            if address.startswith(("/live", "/api")) and answer.status_code == 503:
                assert "\n" not in answer.json()["error"]["message"]
            elif answer.status_code == 503:
                assert answer.headers["refresh"] == "5"
        file.unlink(missing_ok=True)
        file.write_bytes(whole)
        assert {client.get(address).status_code for address in addresses} == {200}


def test_scripts_are_cached_under_a_name_that_changes(client: TestClient) -> None:
    page = client.get("/").text
    for name in ("plotly", "live"):
        file = page.partition(f'"/static/{name}-')[2].partition('"')[0]
        for encoding in ("gzip", "identity"):
            answer = client.get(f"/static/{name}-{file}", headers={"Accept-Encoding": encoding})
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
    assert client.get("/static/other.js").status_code == 404


def test_each_change_of_the_record_changes_the_version(tmp_path: Path) -> None:
    record = sqlite_record(tmp_path / "home", births=5)
    client = new_client(record.settings)

    def version() -> str:
        return client.get("/live/search?name=small&part=curves").headers["etag"]

    seen = [version()]
    with transaction(record.engine) as connection:
        leased = lease_next(connection, record.search_id, host_id=1, worker_id=1, now=2000.0)
    assert leased is not None
    seen.append(version())
    with transaction(record.engine) as connection:
        epoch = EpochRecord(0, 1.0, 0.5, 1.0, 0.5, 0.1, 1.0, ended_at=2001.0)
        record_epochs(connection, leased.token, [epoch], now=2001.0)
    seen.append(version())
    with hold_record(record.settings):
        activity = client.get("/live/activity").json()["html"]
        seen.append(version())
    assert f'<a href="/candidate?candidate={leased.token.candidate}">' in activity
    with transaction(record.engine) as connection:
        record_failure(connection, leased.token, FailureKind.DIVERGED, "nan", now=2002.0)
    seen.append(version())
    assert len(set(seen)) == len(seen)
    with hold_record(record.settings):
        assert ">idle<" in client.get("/live/activity").json()["html"]
    assert "No daemon is running" in client.get("/live/activity").json()["html"]
    record.engine.dispose()


@pytest.mark.slow
def test_pages_recover_when_postgresql_restarts(new_server: Callable[[], Server], tmp_path: Path) -> None:
    server = new_server()
    url = server.new_database()
    record = make_record(tmp_path / "home", lambda _: url)
    client = new_client(record.settings)
    record.engine.dispose()
    parts = [f"/live/search?name=small&part={part}" for part in ReportPart]
    addresses = ["/", "/search?name=small", "/candidate?candidate=1", "/live/activity", "/live/searches", *parts]
    assert {client.get(address).status_code for address in addresses} == {200}
    server.stop()
    for address in addresses[-2:]:
        answer = client.get(address)
        assert answer.status_code == 503, answer.text
        assert "\n" not in answer.json()["error"]["message"]
    server.start()
    assert {client.get(address).status_code for address in addresses} == {200}
    server.drop(url)
    assert "does not exist" in client.get("/live/searches").json()["error"]["message"]
    assert client.get("/").headers["refresh"] == "5"


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Serve a record in a thread of this process, and yield the address."""
    listener = open_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    app = build_app(settings, AccessRules("127.0.0.1", port), "1")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with headless_browser() as browser:
        yield browser


def open_page(browser: Browser, address: str, width: int) -> tuple[Page, list[str]]:
    """Open a URL. Return the page, and a list to which errors and console messages are added."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(120_000)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(address)
    return page, messages


def require_whole(page: Page) -> None:
    """Wait until every part is loaded, and require that nothing is wider than the window."""
    page.wait_for_selector(".later", state="detached")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def show_figure(page: Page, figure: str, drawn: str = ".main-svg .trace") -> bool:
    """Scroll to a figure, and return whether it is drawn.

    A figure is loaded when it is in view, and figures that are loaded above it may push it out of view.
    """
    page.locator(f"section:has(#{figure}), #part-{figure}").first.scroll_into_view_if_needed()
    return page.locator(f":is(#{figure}, #part-{figure}) {drawn}").count() > 0


def part_heights(page: Page) -> list[float]:
    """Return the heights of the parts that contain only figures."""
    ids = [f"#part-{part}" for part in (ReportPart.QUALITY, ReportPart.CURVES, ReportPart.FRONT)]
    return [page.evaluate(f"document.querySelector('{one}').getBoundingClientRect().height") for one in ids]


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_page_follows_a_running_search(browser: Browser, tmp_path: Path, width: int) -> None:
    settings = create_home(tmp_path / "home")
    command = [sys.executable, "-c", SUPERVISE, str(settings.home)]
    with serving(settings) as address:
        page, messages = open_page(browser, address, width)
        page.get_by_role("link", name="s", exact=True).click()
        page.locator("dd", has_text="0 of 24").wait_for()
        require_whole(page)
        empty = part_heights(page)
        with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as daemon:
            try:
                page.locator("dd", has_text="24 of 24").wait_for()
                assert daemon.wait(120) == 0
            finally:
                daemon.kill()
        for figure in ("quality-over-births", "curves-metric", "front", "lineage", "failures", "utilisation"):
            eventually(partial(show_figure, page, figure))
        eventually(partial(show_figure, page, "architectures", ".drawing:not(.reserved) svg"))
        require_whole(page)
        # The page has reserved the height of each figure, except for the number of lines of its caption.
        assert part_heights(page) == pytest.approx(empty, abs=80)
        assert page.locator("#problem").is_hidden()
        assert messages == []


@pytest.mark.slow
def test_page_recovers_and_its_size_stays_bounded(browser: Browser, tmp_path: Path) -> None:
    record = sqlite_record(tmp_path / "home", births=12)
    file = record.settings.database_file
    assert file is not None
    record.engine.dispose()
    with serving(record.settings) as address:
        page, messages = open_page(browser, f"{address}/search?name=small", 1200)
        require_whole(page)
        before = page.evaluate("document.querySelectorAll('*').length")
        for births in (14, 19, 23):  # every refresh replaces the previous drawing
            made = sqlite_record(tmp_path / f"next{births}", births=births)
            made.engine.dispose()
            assert made.settings.database_file is not None
            made.settings.database_file.replace(file)
            refresh(page)
            page.locator("dd", has_text=f"{births} of 24").wait_for()
        require_whole(page)
        assert page.evaluate("document.querySelectorAll('*').length") < 2 * before
        assert page.locator(".plot").count() == page.locator(".plot .plot-container").count()
        with page.expect_navigation():
            page.evaluate("redrawnParts = MAX_REDRAWN_PARTS; document.dispatchEvent(new Event('visibilitychange'))")
        require_whole(page)
        assert messages == []
        away = file.rename(tmp_path / "away.db")
        refresh(page)
        page.locator("#problem", has_text="no record at").wait_for()
        assert page.locator("dd", has_text="23 of 24").is_visible()
        away.rename(file)
        refresh(page)
        page.locator("#problem").wait_for(state="hidden")


def refresh(page: Page) -> None:
    """Refresh the page as a browser does when a reader returns to the tab."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
