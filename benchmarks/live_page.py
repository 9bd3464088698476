"""Measure the live page: its first paint for a long search, and the supervisor's tick while pages are open.

`paint` opens the page of the newest search of a record in Chromium. `tick` supervises simulated trainings; readers that
ask for every part of the page every two seconds come and go in turn. Each measurement is a JSON line.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db.database.engine import open_record, read_connection
from eatnas_db.queries.searches import list_searches
from eatnas_report.data import ReportPart
from support.browser import headless_browser
from support.searches import create_home
from support.simulated_worker import SIMULATED_WORKER

PHASE_SECONDS = 20
POLL_SECONDS = 2
MAX_TICK_RATIO = 1.5
"""Readers may not cost the supervisor more of its own processor time than this."""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


@contextlib.contextmanager
def server(url: str) -> Iterator[str]:
    """Serve a record in a process of its own; yields the address."""
    command = [sys.executable, "-m", "eatnas_cli", "serve", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "EATNAS_DB_URL": url}
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[1]
        finally:
            process.kill()


def measure_paint(url: str, repetitions: int) -> Iterator[dict[str, Any]]:
    with read_connection(url) as connection:
        search = list_searches(connection)[-1]
    with server(url) as address, headless_browser() as browser:
        for _ in range(repetitions):
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            page.set_default_timeout(300_000)
            page.goto(f"{address}search?name={urllib.parse.quote(search.name)}")
            page.wait_for_selector("#quality-over-births .main-svg", state="attached")
            figure = page.evaluate("performance.now()")
            page.wait_for_selector(".later", state="detached")
            yield {
                "figure": "paint",
                "candidates": search.settled,
                "first_paint_ms": page.evaluate(PAINT),
                "first_figure_ms": figure,
                "all_parts_ms": page.evaluate("performance.now()"),
                "heap_bytes": page.evaluate("performance.memory.usedJSHeapSize"),
                "load": os.getloadavg()[0],
            }
            page.close()


class TimedSupervisor(Supervisor):
    """Notes the processor time and the wall time of each tick."""

    ticks: list[tuple[float, float]]

    def tick(self) -> None:
        cpu, wall = time.thread_time(), time.perf_counter()
        super().tick()
        self.ticks.append((time.thread_time() - cpu, time.perf_counter() - wall))


def poll(address: str, stop: threading.Event) -> None:
    """Ask for everything that an open page shows, as often as a page whose search changes."""
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
        with server(settings.database_url) as address:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", choices=("paint", "tick"))
    parser.add_argument("--url", help="record for `paint`")
    parser.add_argument("--readers", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=6)
    options = parser.parse_args()
    if options.figure == "paint":
        rows = measure_paint(options.url, options.repetitions)
    else:
        rows = measure_ticks(options.readers, options.repetitions)
    measured = []
    for row in rows:
        print(json.dumps(row), flush=True)
        measured.append(row)
    if options.figure == "tick":
        read, alone = (
            statistics.median(row["cpu_ms"] for row in measured if bool(row["readers"]) is polled)
            for polled in (True, False)
        )
        if read > MAX_TICK_RATIO * alone:
            sys.exit(f"a tick takes {read:.2f} ms with readers and {alone:.2f} ms without")


if __name__ == "__main__":
    main()
