"""Measure the live page: its first paint for a long search, its memory, and the supervisor's tick while pages are open.

`paint` opens the page of a search in Chromium, in the width of a desktop and of a phone. The search has 100,000
candidates, or is the newest search of the record `--url`. `day` refreshes every part of an open page repeatedly, as in
a tab that is open all day. `tick` supervises simulated trainings, alternately without readers and with readers that
request every part of the page every two seconds. The program prints a JSON line for each measurement. Its exit status
is 1 if a page has errors, or if the memory of a page or the time of a tick grows too much.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from sqlalchemy import update

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db.database.engine import open_record, read_connection
from eatnas_db.database.transactions import transaction
from eatnas_db.queries.searches import list_searches
from eatnas_db.schema.searches import search as searches
from eatnas_report.data import ReportPart
from scaling.synthetic_histories import SyntheticHistories
from support.browser import headless_browser
from support.searches import create_home
from support.simulated_worker import SIMULATED_WORKER

PHASE_SECONDS = 20
POLL_SECONDS = 2
MAX_TICK_RATIO = 1.5
"""The maximum processor time of a tick while readers request parts, relative to a tick without readers."""
WIDTHS = (1200, 390)
CANDIDATES, DAY_CANDIDATES = 100_000, 1_000
DAY_SECONDS, SAMPLE_SECONDS = 240, 10
MAX_HEAP_GROWTH = 1.25
"""The maximum growth of the memory of a page from the second quarter of the measurement to the last quarter."""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


class BrokenPageError(Exception):
    """A page has errors, or it is wider than its window."""


@contextlib.contextmanager
def server(url: str) -> Iterator[tuple[str, int]]:
    """Serve a record in a new process. Yield the URL of the server and the pid of the process."""
    command = [sys.executable, "-m", "eatnas_cli", "serve", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "EATNAS_DB_URL": url}
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[1], process.pid
        finally:
            process.kill()


def open_search(browser: Any, address: str, name: str, size: tuple[int, int]) -> tuple[Any, list[str]]:
    """Open the page of a search. Return the page and the list of its errors and messages."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(300_000)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(f"{address}search?name={urllib.parse.quote(name)}")
    return page, messages


def require_whole(page: Any, messages: Sequence[str]) -> None:
    """Raise `BrokenPageError` if the page has errors or is wider than its window."""
    if messages:
        raise BrokenPageError(f"the console has {len(messages)} messages; the first is {messages[0]}")
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        raise BrokenPageError(f"the page is wider than its window of {page.viewport_size['width']} pixels")


def newest_search(url: str) -> tuple[str, int]:
    """Return the name of the newest search of a record, and the number of its settled candidates."""
    with read_connection(url) as connection:
        search = list_searches(connection)[-1]
    return search.name, search.settled


def measure_paint(url: str, repetitions: int) -> Iterator[dict[str, Any]]:
    name, settled = newest_search(url)
    with server(url) as (address, _), headless_browser() as browser:
        for width in WIDTHS * (repetitions // len(WIDTHS)):
            page, messages = open_search(browser, address, name, (width, 900))
            page.wait_for_selector(".preview", state="attached")
            preview = page.evaluate("performance.now()")
            page.wait_for_selector("#quality-over-births .main-svg", state="attached")
            figure = page.evaluate("performance.now()")
            page.wait_for_selector(".later", state="detached")
            everything, paint = page.evaluate("performance.now()"), page.evaluate(PAINT)
            require_whole(page, messages)
            page.locator("a[href^='/candidate']").first.click()
            page.wait_for_selector("#lineage .main-svg", state="attached")
            require_whole(page, messages)
            yield {
                "figure": "paint",
                "candidates": settled,
                "width": width,
                "first_paint_ms": paint,
                "preview_ms": preview,
                "first_figure_ms": figure,
                "all_parts_ms": everything,
                "load": os.getloadavg()[0],
            }
            page.close()


def measure_day(url: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Repeatedly change the record and refresh every part of an open page, up to five times a second."""
    engine, (name, settled) = open_record(url), newest_search(url)
    with server(url) as (address, process), headless_browser() as browser:
        # The window shows the whole page, so that each refresh reads and draws all parts.
        page, messages = open_search(browser, address, name, (1200, 10_000))
        answers: list[int] = []
        page.on("response", lambda response: answers.append(response.status))
        page.wait_for_selector(".later", state="detached")
        profiler = page.context.new_cdp_session(page)
        profiler.send("Performance.enable")
        started = sampled = time.monotonic()
        while time.monotonic() < started + seconds:
            with transaction(engine) as connection:
                connection.execute(update(searches).values(device_seconds=searches.c.device_seconds + 1))
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            page.wait_for_timeout(200)
            if time.monotonic() > sampled + SAMPLE_SECONDS:
                sampled = time.monotonic()
                profiler.send("HeapProfiler.collectGarbage")
                metrics = {row["name"]: row["value"] for row in profiler.send("Performance.getMetrics")["metrics"]}
                yield {
                    "figure": "day",
                    "candidates": settled,
                    "seconds": round(sampled - started),
                    "changed_answers": answers.count(200),
                    "heap_bytes": metrics["JSHeapUsedSize"],
                    "nodes": metrics["Nodes"],
                    "listeners": metrics["JSEventListeners"],
                    "server_bytes": _resident_bytes(process),
                    "load": os.getloadavg()[0],
                }
        require_whole(page, messages)
    engine.dispose()


def _resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TimedSupervisor(Supervisor):
    """Records the processor time and the wall time of each tick."""

    ticks: list[tuple[float, float]]

    def tick(self) -> None:
        cpu, wall = time.thread_time(), time.perf_counter()
        super().tick()
        self.ticks.append((time.thread_time() - cpu, time.perf_counter() - wall))


def poll(address: str, stop: threading.Event) -> None:
    """Request all parts of a page, as often as an open page does while its search changes."""
    parts = [f"live/search?name=s&part={part}" for part in ReportPart]
    while not stop.is_set():
        for part in ("live/searches", "live/activity?name=s", *parts):
            urllib.request.urlopen(address + part).read()
        stop.wait(POLL_SECONDS)


def measure_ticks(readers: int, phases: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        settings = create_home(Path(folder) / "home", budget__candidates=100_000)
        worker = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.1")
        supervisor = TimedSupervisor(
            open_record(settings.database_url), settings, Launcher(settings.logs, worker), slots=2, host_name="here"
        )
        supervisor.ticks = []
        rows: list[dict[str, Any]] = []
        with server(settings.database_url) as (address, _):
            watcher = threading.Thread(target=_run_phases, args=(supervisor, address, readers, phases, rows))
            watcher.start()
            supervisor.run()
            watcher.join()
        yield from rows


def _run_phases(
    supervisor: TimedSupervisor, address: str, readers: int, phases: int, rows: list[dict[str, Any]]
) -> None:
    for phase in range(phases):
        count, stop = (readers if phase % 2 else 0), threading.Event()
        threads = [threading.Thread(target=poll, args=(address, stop)) for _ in range(count)]
        first = len(supervisor.ticks)
        for thread in threads:
            thread.start()
        time.sleep(PHASE_SECONDS)
        cpu, wall = zip(*supervisor.ticks[first:], strict=True)
        stop.set()
        for thread in threads:
            thread.join()
        rows.append(
            {
                "figure": "tick",
                "readers": count,
                "ticks": len(cpu),
                "cpu_ms": 1000 * statistics.median(cpu),
                "wall_ms": 1000 * statistics.median(wall),
                "wall_p95_ms": 1000 * statistics.quantiles(wall, n=20)[-1],
                "load": os.getloadavg()[0],
            }
        )
    supervisor.stop()


def find_problem(rows: Sequence[dict[str, Any]]) -> str | None:
    """Describe the problem in the measurements of one figure, or return None."""
    if rows[0]["figure"] == "tick":
        read, alone = (
            statistics.median(row["cpu_ms"] for row in rows if bool(row["readers"]) is polled)
            for polled in (True, False)
        )
        return (
            f"a tick takes {read:.2f} ms with readers and {alone:.2f} ms without"
            if read > MAX_TICK_RATIO * alone
            else None
        )
    if rows[0]["figure"] == "day":
        quarter = len(rows) // 4
        for measure in ("heap_bytes", "nodes", "listeners", "server_bytes"):
            early, late = (
                statistics.median(row[measure] for row in part)
                for part in (rows[quarter : 2 * quarter], rows[-quarter:])
            )
            if late > MAX_HEAP_GROWTH * early:
                return f"{measure} of an open page grew from {early:,.0f} to {late:,.0f}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", choices=("paint", "day", "tick"))
    parser.add_argument("--url", help="URL of the record for `paint`; default: a synthetic history")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "eatnas-scale")
    parser.add_argument("--readers", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=DAY_SECONDS, help="duration of `day` in seconds; default: 240")
    options = parser.parse_args()
    if options.figure == "paint":
        url = options.url or SyntheticHistories(options.folder).url("sqlite", CANDIDATES)
        rows = measure_paint(url, options.repetitions)
    elif options.figure == "day":
        copy = SyntheticHistories(options.folder).copy("sqlite", DAY_CANDIDATES, "day")
        rows = measure_day(copy, options.seconds)
    else:
        rows = measure_ticks(options.readers, options.repetitions)
    measured = []
    try:
        for row in rows:
            print(json.dumps(row), flush=True)
            measured.append(row)
    except BrokenPageError as error:
        sys.exit(str(error))
    if problem := find_problem(measured):
        sys.exit(problem)


if __name__ == "__main__":
    main()
