"""The record from Python, for notebooks: the questions of the command line as frozen records and as data frames."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Connection

from eatnas_db import adhoc_sql
from eatnas_db.database.engine import open_record, viewing
from eatnas_db.errors import ConflictError, EatnasError
from eatnas_db.queries.candidates import CandidateDetails, get_candidate
from eatnas_db.queries.compare import LevelReached, Measure, list_compute_curves, list_levels_reached
from eatnas_db.queries.events import RecordedEvent, list_events
from eatnas_db.queries.failures import FailedAttempt, list_failures
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.lineage import LineageEntry, get_lineage, list_descendants
from eatnas_db.queries.mutations import MutationStatistics, list_mutation_statistics
from eatnas_db.queries.pareto import CostMetric, Tradeoff, list_front
from eatnas_db.queries.population import PopulationMember, list_population
from eatnas_db.queries.primitives import PrimitiveShare, list_primitives
from eatnas_db.queries.progress import SearchCounters, get_progress
from eatnas_db.queries.quality import PopulationStep, list_steps
from eatnas_db.queries.ranking import RankedCandidate, list_best
from eatnas_db.queries.searches import SearchRecord, SearchSummary, get_search, list_search_summaries
from eatnas_db.queries.utilisation import Utilisation, get_utilisation
from eatnas_db.settings import Settings, load_settings

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN_ROWS: Final = 20
ENDINGS: Final = {0: "finished", 3: "stopped", 75: "interrupted"}
"""How `run` may end without a mistake, by its exit status."""
Spec = str | Path | Mapping[str, Any]
T_co = TypeVar("T_co", covariant=True)


class Rows(tuple[T_co, ...]):
    """An answer: a tuple of frozen records, and a data frame when asked for one."""

    columns: tuple[str, ...]

    def __new__(cls, rows: Iterable[T_co], columns: Iterable[str]) -> Rows[T_co]:
        """Rows whose frame has these columns."""
        made = super().__new__(cls, tuple(rows))
        made.columns = tuple(columns)
        return made

    def frame(self) -> DataFrame:
        """The rows as a pandas data frame."""
        from pandas import DataFrame

        return DataFrame([_cells(row, self.columns) for row in self], columns=list(self.columns))

    def _repr_html_(self) -> str:
        more = f"<p>… and {len(self) - SHOWN_ROWS:,} more</p>" if len(self) > SHOWN_ROWS else ""
        return _table(self.columns, [_cells(row, self.columns) for row in self[:SHOWN_ROWS]]) + more


class Search:
    """One search of a record. Every call asks anew, so a search may be watched while it runs."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self.name = settings, name

    def __repr__(self) -> str:
        return f"Search({self.name!r})"

    def record(self) -> SearchRecord:
        """Its row: spec, status, counters."""
        with viewing(self._settings.database_url) as connection:
            return get_search(connection, self.name)

    @property
    def status(self) -> str:
        """Running, waiting for something, paused, finished or cancelled."""
        return self.record().status

    def progress(self) -> SearchCounters:
        """How far it is."""
        with self._asked() as (connection, search_id):
            return get_progress(connection, search_id)

    def best(self, top: int = 10) -> Rows[RankedCandidate]:
        """The fittest, those that a yardstick measured first."""
        with self._asked() as (connection, search_id):
            return _rows(RankedCandidate, list_best(connection, search_id, top))

    def lineage(self, candidate: int | None = None) -> Rows[LineageEntry]:
        """Where a candidate comes from, by default the best."""
        with self._asked() as (connection, search_id):
            found = [one.id for one in list_best(connection, search_id, 1)] if candidate is None else [candidate]
            if not found:
                raise ConflictError(f"search {self.name!r} has no scored candidate yet; run it first")
            return _rows(LineageEntry, get_lineage(connection, found[0]))

    def population(self, at: int | None = None) -> Rows[PopulationMember]:
        """Who lives now, or after step `at`."""
        with self._asked() as (connection, search_id):
            return _rows(PopulationMember, list_population(connection, search_id, at))

    def quality(self) -> Rows[PopulationStep]:
        """How good the population was after each step."""
        with self._asked() as (connection, search_id):
            return _rows(PopulationStep, list_steps(connection, search_id))

    def pareto(self, cost: CostMetric = "mult_adds") -> Rows[Tradeoff]:
        """The candidates that no other beats at both accuracy and cost."""
        with self._asked() as (connection, search_id):
            return _rows(Tradeoff, list_front(connection, search_id, cost))

    def primitives(self, block: int | None = None, points: int = 5) -> Rows[PrimitiveShare]:
        """Which values of which block survive."""
        with self._asked() as (connection, search_id):
            return _rows(PrimitiveShare, list_primitives(connection, search_id, block, points))

    def mutations(self, block: int | None = None) -> Rows[MutationStatistics]:
        """Which kinds of change paid."""
        with self._asked() as (connection, search_id):
            return _rows(MutationStatistics, list_mutation_statistics(connection, search_id, block))

    def failures(self) -> Rows[FailedAttempt]:
        """Which attempts failed, and why."""
        with self._asked() as (connection, search_id):
            return _rows(FailedAttempt, list_failures(connection, search_id))

    def events(self, limit: int = 50) -> Rows[RecordedEvent]:
        """What happened lately, the newest last."""
        with self._asked() as (connection, search_id):
            return _rows(RecordedEvent, list_events(connection, search_id, limit))

    def utilisation(self) -> Utilisation:
        """What it took of the machines."""
        with self._asked() as (connection, search_id):
            return get_utilisation(connection, search_id, time.time())

    def fingerprint(self) -> str:
        """One line that is equal for equal histories."""
        with self._asked() as (connection, search_id):
            return get_fingerprint(connection, search_id).sha256

    def run(self, slots: int | None = None) -> str:
        """Train it here until it ends, in a process of its own; interrupt the kernel to stop it, and run it again.

        Prints its progress. `finished`, `stopped` (paused, cancelled or out of device hours) or `interrupted`.
        """
        chosen = () if slots is None else ("--slots", str(slots))
        return ENDINGS[_command(self._settings, "run", self.name, *chosen, told=True)]

    @contextmanager
    def _asked(self) -> Iterator[tuple[Connection, int]]:
        with viewing(self._settings.database_url) as connection:
            yield connection, get_search(connection, self.name).id

    def _repr_html_(self) -> str:
        row = self.record()
        facts = [row.status, f"{row.settled} of {row.budget_candidates}", f"{row.device_seconds:.0f}"]
        columns = ("status", "settled", "device_seconds")
        return f"<h4>{html.escape(self.name)}</h4>{_table(columns, [facts])}{self.best(5)._repr_html_()}"


class Record:
    """A record and its searches."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        open_record(settings.database_url).dispose()

    def __repr__(self) -> str:
        return f"Record({self._settings.shown_url!r})"

    def searches(self) -> Rows[SearchSummary]:
        """Every search, and how far it is; the newest last."""
        with viewing(self._settings.database_url) as connection:
            return _rows(SearchSummary, list_search_summaries(connection))

    def search(self, name: str) -> Search:
        """The search of this name. Raises `NotFoundError`."""
        found = Search(self._settings, name)
        found.record()
        return found

    def candidate(self, candidate: int) -> CandidateDetails:
        """Everything that is known of a candidate."""
        with viewing(self._settings.database_url) as connection:
            return get_candidate(connection, candidate)

    def descendants(self, candidate: int) -> Rows[LineageEntry]:
        """What came of a candidate, in whatever search."""
        with viewing(self._settings.database_url) as connection:
            return _rows(LineageEntry, list_descendants(connection, candidate))

    def compare(
        self, *names: str, by: Measure = "quality", levels: Sequence[float] = (), alone: bool = False
    ) -> Rows[LevelReached]:
        """After how many device seconds each search reached the same levels."""
        with viewing(self._settings.database_url) as connection:
            courses = list_compute_curves(connection, names, measure=by, alone=alone)
        return _rows(LevelReached, list_levels_reached(courses, levels))

    def sql(self, question: str, limit: int = 10_000, seconds: float = adhoc_sql.DEFAULT_SECONDS) -> Rows[Any]:
        """The answer to one SELECT, as tuples; at most `limit` rows. Nothing can be changed this way."""
        answer = adhoc_sql.ask(self._settings, question, limit=limit, seconds=seconds)
        return Rows(answer.rows, answer.columns)

    def create(self, spec: Spec) -> Search:
        """Create a search from a YAML file or from a mapping of the same shape."""
        return self._create(("search", "create"), spec)

    def transfer(self, source: str, spec: Spec, candidate: int | None = None) -> Search:
        """Create a search that begins with the best of `source`, or with a candidate of it."""
        chosen = () if candidate is None else ("--candidate", str(candidate))
        return self._create(("transfer", *chosen, source), spec)

    def _create(self, command: Sequence[str], spec: Spec) -> Search:
        before = {row.name for row in self.searches()}
        if isinstance(spec, Mapping):
            with tempfile.TemporaryDirectory() as folder:
                # JSON is YAML.
                file = Path(folder, "spec.yaml")
                file.write_text(json.dumps(spec))
                _command(self._settings, *command, str(file))
        else:
            _command(self._settings, *command, str(spec))
        return self.search(next(row.name for row in reversed(self.searches()) if row.name not in before))

    def _repr_html_(self) -> str:
        return self.searches()._repr_html_()


def open(home: str | Path | None = None) -> Record:  # noqa: A001
    """The record in a home folder or at a database URL; by default where the command line would look.

    Raises `RecordError`.
    """
    if isinstance(home, str) and "://" in home:
        return Record(load_settings(os.environ, db=home))
    return Record(load_settings(os.environ, home=None if home is None else str(home)))


def _command(settings: Settings, *arguments: str, told: bool = False) -> int:
    """Run the command line beside us; its exit status. Its one line of complaint becomes an `EatnasError`."""
    command = [sys.executable, "-m", "eatnas_cli", *arguments]
    # Not as options: everybody may read those, and a URL may hold a password.
    environment = {**os.environ, "EATNAS_HOME": str(settings.home), "EATNAS_DB_URL": settings.database_url}
    # Through us: what a process prints by itself does not reach a notebook. In a group of its own: Ctrl-C in a
    # terminal would reach it twice.
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=complaints, text=True, process_group=0
        ) as process,
    ):
        assert process.stdout is not None
        lines = iter(process.stdout)
        while True:
            try:
                line = next(lines, None)
                if line is None:
                    break
                if told:
                    print(line, end="", flush=True)
            except KeyboardInterrupt:
                # It saves what it has, and says so; a second interrupt would not make that quicker.
                process.terminate()
        status = process.wait()
        complaints.seek(0)
        if status not in ENDINGS:
            raise EatnasError(complaints.read().strip().removeprefix("eatnas-db: ") or f"it ended with {status}")
        return status


def _rows(kind: type[T_co], rows: Iterable[T_co]) -> Rows[T_co]:
    return Rows(rows, kind.__dataclass_fields__)  # type: ignore[attr-defined]


def _cells(row: Any, columns: Sequence[str]) -> list[Any]:
    return list(row) if isinstance(row, tuple) else [getattr(row, column) for column in columns]


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(_shown(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
