"""The live progress of a search: a bar on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine

from eatnas_cli.search import is_worked_on, status_told
from eatnas_db.database.transactions import reading
from eatnas_db.errors import RecordError
from eatnas_db.queries.ranking import list_best
from eatnas_db.queries.searches import get_open_yardstick, get_search
from eatnas_db.settings import Settings

REFRESH_SECONDS = 0.5


class Display:
    """Settled, best so far, status, and on a terminal candidates a minute and time left."""

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
        """Show what the record says, twice a second at most unless it is to be at once. Whether the search is over."""
        now = time.monotonic()
        if now < self._next and not at_once:
            return False
        self._next = now + REFRESH_SECONDS
        try:
            with reading(self._engine) as connection:
                row = get_search(connection, self._name)
                if row.finished_at is not None:
                    row = get_open_yardstick(connection, row.id) or row
                top = list_best(connection, row.id, 1)
                worked_on = is_worked_on(self._settings, connection)
        except RecordError as error:
            # To be told, not to be died of: the supervisor goes on when the record can be reached again.
            self._tell(str(error))
            return False
        best = f"best {top[0].fitness:.4f}" if top else "no score yet"
        status = trouble or status_told(row, worked_on)
        if row.name != self._showing:
            self._showing, self._first, self._started = row.name, None, now
        self._tell(f"{row.settled}/{row.budget_candidates}  {best}  {status}")
        self._first = row.settled if self._first is None else self._first
        rate = 60 * (row.settled - self._first) / max(now - self._started, 1e-9)
        note = f"{best}  {rate:.1f}/min" if status == "running" else f"{best}  {status}"
        self._bar.update(
            self._task, description=row.name, completed=row.settled, total=row.budget_candidates, note=note
        )
        return row.finished_at is not None

    def _tell(self, line: str) -> None:
        if self._bar.disable:
            if line != self._said:
                print(f"{self._showing}  {line}", flush=True)
            self._said = line
        else:
            self._bar.update(self._task, note=line)
