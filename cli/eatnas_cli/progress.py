"""The live progress line of a running search."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine

from eatnas_db.database import reading
from eatnas_db.queries.best import list_best
from eatnas_db.queries.searches import get_search

REFRESH_SECONDS = 0.5


class Display:
    """Done, best so far, candidates a minute and time left; refreshed between the supervisor's ticks."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self._name = engine, name
        self._bar = Progress(
            TextColumn(name),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task(name, total=None, note="")
        self._started = time.monotonic()
        self._first: int | None = None
        self._next = 0.0

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def refresh(self, ended: bool, trouble: str | None = None) -> None:
        """Show what the record says; at most twice a second, but always at the end."""
        now = time.monotonic()
        if now < self._next and not ended:
            return
        self._next = now + REFRESH_SECONDS
        with reading(self._engine) as connection:
            row = get_search(connection, self._name)
            top = list_best(connection, row.id, 1)
        self._first = row.settled if self._first is None else self._first
        rate = 60 * (row.settled - self._first) / max(now - self._started, 1e-9)
        note = f"best {top[0].fitness:.4f}  {rate:.1f}/min" if top else "training the first candidates"
        note = trouble or note
        self._bar.update(self._task, completed=row.settled, total=row.budget_candidates, note=note)
