"""Describe the progress of a search in one line: settled candidates, best fitness, status."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine

from eatnas_daemon.search_status import describe_status, is_supervised
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import RecordError
from eatnas_db.queries.failures import describe_last_failure
from eatnas_db.queries.ranking import list_fittest
from eatnas_db.queries.searches import SearchRecord, get_search, list_open_retrainings
from eatnas_db.settings import Settings

REFRESH_SECONDS: Final = 0.5


def describe_failures(connection: Connection, row: SearchRecord) -> str:
    """Explain why a search has no score, and name the command that shows the failures."""
    last = describe_last_failure(connection, row.id) or "all were cancelled"
    return f"the last failure: {last}; `eatnas-db query failures {row.name}` lists all"


@dataclass(frozen=True, slots=True)
class ProgressLine:
    """The progress of a search or, after the search has ended, of its first unfinished re-evaluation or retry."""

    name: str
    settled: int
    budget: int
    best: str
    status: str
    finished: bool

    def __str__(self) -> str:
        return f"{self.settled}/{self.budget}  {self.best}  {self.status}"


def read_progress_line(engine: Engine, settings: Settings, name: str, trouble: str | None = None) -> ProgressLine:
    """Return the progress of a search; `trouble` replaces its status. Raises `RecordError`."""
    with read_transaction(engine) as connection:
        row = get_search(connection, name)
        if row.finished_at is not None:
            row = next(iter(list_open_retrainings(connection, row.id)), row)
        fittest = list_fittest(connection, row.id, 1)
        status = trouble or describe_status(row, is_supervised(settings, connection))
        if row.failed and not trouble:
            status = f"{status}; {describe_failures(connection, row)}"
    return ProgressLine(
        name=row.name,
        settled=row.settled,
        budget=row.budget_candidates,
        best=f"best {fittest[0].fitness:.4f}" if fittest else "no score yet",
        status=status,
        finished=row.finished_at is not None,
    )


class ProgressPrinter:
    """Prints a line on stdout whenever the progress of a search changes."""

    def __init__(self, engine: Engine, settings: Settings, name: str) -> None:
        self._engine, self._settings, self._name = engine, settings, name
        self._next_at = 0.0
        self._printed = ""

    def refresh(self, *, at_once: bool = False, trouble: str | None = None) -> None:
        """Print the progress if it has changed. Reads the database at most twice a second unless `at_once` is true."""
        now = time.monotonic()
        if now < self._next_at and not at_once:
            return
        self._next_at = now + REFRESH_SECONDS
        try:
            progress = read_progress_line(self._engine, self._settings, self._name, trouble)
        except RecordError as error:
            # Do not fail, because the supervisor also continues when the database is reachable again.
            line = f"{self._name}  {error}"
        else:
            line = f"{progress.name}  {progress}"
        if line != self._printed:
            print(line, flush=True)
            self._printed = line
