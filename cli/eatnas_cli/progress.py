"""Show the live progress of a search: as a bar on a terminal, otherwise as a line for each change."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine

from eatnas_daemon.search_progress import REFRESH_SECONDS, read_progress_line
from eatnas_db.errors import RecordError
from eatnas_db.settings import Settings


class Display:
    """Shows the progress, the best fitness and the status; on a terminal, also the pace and the time left."""

    def __init__(self, engine: Engine, settings: Settings, name: str) -> None:
        self._engine, self._settings, self._name = engine, settings, name
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            disable=not sys.stdout.isatty(),
        )
        self._task = self._bar.add_task(name, total=None, note="")
        self._started = time.monotonic()
        self._first: int | None = None
        self._next = 0.0
        self._said, self._showing = "", name

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def refresh(self, *, at_once: bool = False, trouble: str | None = None) -> bool:
        """Show the progress, at most twice a second unless `at_once` is true. Return whether the search has ended."""
        now = time.monotonic()
        if now < self._next and not at_once:
            return False
        self._next = now + REFRESH_SECONDS
        try:
            progress = read_progress_line(self._engine, self._settings, self._name, trouble)
        except RecordError as error:
            # Do not fail, because the supervisor also continues when the database is reachable again.
            self._tell(str(error))
            return False
        if progress.name != self._showing:
            self._showing, self._first, self._started = progress.name, None, now
        self._tell(str(progress))
        self._first = progress.settled if self._first is None else self._first
        rate = 60 * (progress.settled - self._first) / max(now - self._started, 1e-9)
        detail = f"{rate:.1f}/min" if progress.status == "running" else progress.status
        self._bar.update(
            self._task,
            description=progress.name,
            completed=progress.settled,
            total=progress.budget,
            note=f"{progress.best}  {detail}",
        )
        return progress.finished

    def _tell(self, line: str) -> None:
        if self._bar.disable:
            if line != self._said:
                print(f"{self._showing}  {line}", flush=True)
            self._said = line
        else:
            self._bar.update(self._task, note=line)
