"""Query a record from Python, for example in a notebook. Queries return frozen dataclasses, which convert to pandas
data frames.
"""

from __future__ import annotations

import html
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

from eatnas_db import adhoc_sql
from eatnas_db.database.engine import open_record, read_connection
from eatnas_db.errors import ConflictError, EatnasError
from eatnas_db.interpreter import python_command
from eatnas_db.notebook_rows import Rows, html_table
from eatnas_db.queries.candidates import CandidateDetails, get_candidate
from eatnas_db.queries.compute_curves import LevelReached, Measure, list_compute_curves, list_levels_reached
from eatnas_db.queries.events import RecordedEvent, list_events
from eatnas_db.queries.failures import FailedAttempt, list_failures
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.lineage import LineageEntry, get_lineage, list_descendants
from eatnas_db.queries.mutations import MutationStatistics, list_mutation_statistics
from eatnas_db.queries.objective_front import ObjectiveValues, list_objective_front
from eatnas_db.queries.pareto import CostMetric, Tradeoff, list_front
from eatnas_db.queries.population import PopulationMember, list_population
from eatnas_db.queries.primitives import PrimitiveShare, list_primitives
from eatnas_db.queries.progress import SearchCounters, get_progress
from eatnas_db.queries.quality import PopulationStep, list_steps
from eatnas_db.queries.ranking import RankedCandidate, get_best, list_best
from eatnas_db.queries.searches import SearchRecord, SearchSummary, get_search, list_search_summaries
from eatnas_db.queries.utilisation import Utilisation, get_utilisation
from eatnas_db.settings import Settings, load_settings

ENDINGS: Final = {0: "finished", 3: "stopped", 4: "failed", 75: "interrupted"}
"""The value that `Search.run` returns for each exit status of the supervisor."""
# Start these modules as separate programs, because this package must not import the daemon.
CREATION_PROGRAM: Final = "eatnas_daemon.search_creation"
SUPERVISOR_PROGRAM: Final = "eatnas_daemon.main"
Spec = str | Path | Mapping[str, Any]


class Search:
    """One search of a record. Every call reads the current state of the record."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self.name = settings, name

    def __repr__(self) -> str:
        return f"Search({self.name!r})"

    def record(self) -> SearchRecord:
        """Return the spec, status and counters of the search."""
        with read_connection(self._settings.database_url) as connection:
            return get_search(connection, self.name)

    @property
    def status(self) -> str:
        """The status: running, waiting (with the reason), paused, finished, failed or cancelled."""
        return self.record().status

    def progress(self) -> SearchCounters:
        """Return the progress of the search."""
        with self._connect() as (connection, search_id):
            return get_progress(connection, search_id)

    def best(self, top: int = 10) -> Rows[RankedCandidate]:
        """Return the best candidates; re-evaluated candidates come first."""
        with self._connect() as (connection, search_id):
            return Rows.of(RankedCandidate, list_best(connection, search_id, top))

    def lineage(self, candidate: int | None = None) -> Rows[LineageEntry]:
        """Return the ancestors of a candidate, by default of the best candidate.

        Raises `ConflictError` if no candidate is scored.
        """
        with self._connect() as (connection, search_id):
            if candidate is None:
                best = get_best(connection, search_id)
                if best is None:
                    raise ConflictError(f"search {self.name!r} has no scored candidate yet; run it first")
                candidate = best.id
            return Rows.of(LineageEntry, get_lineage(connection, candidate))

    def population(self, at: int | None = None) -> Rows[PopulationMember]:
        """Return the population after step `at`, by default the current one."""
        with self._connect() as (connection, search_id):
            return Rows.of(PopulationMember, list_population(connection, search_id, at))

    def quality(self) -> Rows[PopulationStep]:
        """Return the quality of the population after each step."""
        with self._connect() as (connection, search_id):
            return Rows.of(PopulationStep, list_steps(connection, search_id))

    def pareto(self, cost: CostMetric = "mult_adds") -> Rows[Tradeoff]:
        """Return the Pareto front of a cost and the metric that the search optimizes (accuracy by default)."""
        with self._connect() as (connection, search_id):
            direction = get_search(connection, self.name).objective.direction
            return Rows.of(Tradeoff, list_front(connection, search_id, cost, direction))

    def front(self) -> Rows[ObjectiveValues]:
        """Return the Pareto front of a search with several objectives; it is empty in a search with one objective."""
        with self._connect() as (connection, search_id):
            return Rows.of(ObjectiveValues, list_objective_front(connection, search_id))

    def primitives(self, block: int | None = None, points: int = 5) -> Rows[PrimitiveShare]:
        """Return the share of the population that has each value of a primitive, at `points` steps of the search."""
        with self._connect() as (connection, search_id):
            return Rows.of(PrimitiveShare, list_primitives(connection, search_id, block, points))

    def mutations(self, block: int | None = None) -> Rows[MutationStatistics]:
        """Return the effect of each kind of mutation on fitness."""
        with self._connect() as (connection, search_id):
            return Rows.of(MutationStatistics, list_mutation_statistics(connection, search_id, block))

    def failures(self) -> Rows[FailedAttempt]:
        """Return the failed attempts with their causes."""
        with self._connect() as (connection, search_id):
            return Rows.of(FailedAttempt, list_failures(connection, search_id))

    def events(self, limit: int = 50) -> Rows[RecordedEvent]:
        """Return the latest events, the newest last."""
        with self._connect() as (connection, search_id):
            return Rows.of(RecordedEvent, list_events(connection, search_id, limit=limit))

    def utilisation(self) -> Utilisation:
        """Return the device time that the search used, and the share of time in which each slot was busy."""
        with self._connect() as (connection, search_id):
            return get_utilisation(connection, search_id, time.time())

    def fingerprint(self) -> str:
        """Return a SHA-256 of the history of the search; it is equal for equal histories."""
        with self._connect() as (connection, search_id):
            return get_fingerprint(connection, search_id).sha256

    def run(self, slots: int | None = None) -> str:
        """Run the search in a separate process until it ends. To stop it, interrupt the kernel; to continue, call `run`
        again.

        Prints the progress. Returns `finished`, `stopped` (paused, cancelled or out of device hours),
        `failed` (no candidate was scored) or `interrupted`. Raises `EatnasError`.
        """
        options = () if slots is None else ("--slots", str(slots))
        return ENDINGS[_supervise(self._settings, "--only", self.name, *options)]

    @contextmanager
    def _connect(self) -> Iterator[tuple[Connection, int]]:
        with read_connection(self._settings.database_url) as connection:
            yield connection, get_search(connection, self.name).id

    def _repr_html_(self) -> str:
        row = self.record()
        values = [row.status, f"{row.settled} of {row.budget_candidates}", f"{row.device_seconds:.0f}"]
        columns = ("status", "settled", "device_seconds")
        return f"<h4>{html.escape(self.name)}</h4>{html_table(columns, [values])}{self.best(5)._repr_html_()}"


class Record:
    """A record and its searches."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        open_record(settings.database_url).dispose()

    def __repr__(self) -> str:
        return f"Record({self._settings.printable_url!r})"

    def searches(self) -> Rows[SearchSummary]:
        """Return every search with its progress, the newest last."""
        with read_connection(self._settings.database_url) as connection:
            return Rows.of(SearchSummary, list_search_summaries(connection))

    def search(self, name: str) -> Search:
        """Return the search with this name. Raises `NotFoundError`."""
        search = Search(self._settings, name)
        search.record()
        return search

    def candidate(self, candidate: int) -> CandidateDetails:
        """Return all details of a candidate. Raises `NotFoundError`."""
        with read_connection(self._settings.database_url) as connection:
            return get_candidate(connection, candidate)

    def descendants(self, candidate: int) -> Rows[LineageEntry]:
        """Return the descendants of a candidate in all searches."""
        with read_connection(self._settings.database_url) as connection:
            return Rows.of(LineageEntry, list_descendants(connection, candidate))

    def compare(
        self, *names: str, by: Measure = "quality", levels: Sequence[float] = (), alone: bool = False
    ) -> Rows[LevelReached]:
        """Return the device seconds that each search needed to reach each level of a measure."""
        with read_connection(self._settings.database_url) as connection:
            curves = list_compute_curves(connection, names, measure=by, alone=alone)
        return Rows.of(LevelReached, list_levels_reached(curves, levels))

    def sql(
        self, query: str, limit: int = adhoc_sql.DEFAULT_LIMIT, seconds: float = adhoc_sql.DEFAULT_SECONDS
    ) -> Rows[tuple[Any, ...]]:
        """Return at most `limit` rows of one SELECT, as tuples. The statement cannot change the record."""
        result = adhoc_sql.run_query(self._settings, query, limit=limit, seconds=seconds)
        return Rows(result.rows, result.columns)

    def create(self, spec: Spec) -> Search:
        """Create a search from a YAML file, or from a mapping with the same keys. Raises `EatnasError`."""
        return self._create(spec)

    def transfer(self, source: str, spec: Spec, candidate: int | None = None) -> Search:
        """Create a search that starts from a candidate of the search `source`, by default from the best candidate.

        Raises `EatnasError`.
        """
        options = () if candidate is None else ("--candidate", str(candidate))
        return self._create(spec, "--from", source, *options)

    def _create(self, spec: Spec, *options: str) -> Search:
        is_mapping = isinstance(spec, Mapping)
        program = subprocess.run(
            _command(CREATION_PROGRAM, *options, *(() if is_mapping else (str(spec),))),
            env=_environment(self._settings),
            input=json.dumps(spec) if is_mapping else None,
            capture_output=True,
            encoding="utf-8",
            process_group=0,
            check=False,
        )
        if program.returncode != 0:
            raise _failure(program.stderr, program.returncode)
        return Search(self._settings, json.loads(program.stdout)["name"])

    def _repr_html_(self) -> str:
        return self.searches()._repr_html_()


def open(home: str | Path | None = None) -> Record:  # noqa: A001
    """Open the record in a home folder or at a database URL, by default the record that the command line opens.

    Raises `RecordError`.
    """
    if isinstance(home, str) and "://" in home:
        return Record(load_settings(os.environ, db=home))
    return Record(load_settings(os.environ, home=None if home is None else str(home)))


def _supervise(settings: Settings, *arguments: str) -> int:
    """Run the supervisor, print its output and return its exit status. Raises `EatnasError` if the supervisor fails."""
    # Print the supervisor's output here, because a notebook shows only output of this process. Start a new process
    # group, so that the supervisor receives only the signal below, and not also the terminal's Ctrl-C.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            _command(SUPERVISOR_PROGRAM, *arguments),
            env=_environment(settings),
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            process_group=0,
        ) as process,
    ):
        assert process.stdout is not None
        lines = iter(process.stdout)
        while True:
            try:
                line = next(lines, None)
                if line is None:
                    break
                print(line, end="", flush=True)
            except KeyboardInterrupt:
                # On SIGTERM, the supervisor saves its checkpoints and exits; another interrupt does not make it exit
                # faster.
                process.terminate()
        status = process.wait()
        errors.seek(0)
        if status not in ENDINGS:
            raise _failure(errors.read(), status)
        return status


def _command(module: str, *arguments: str) -> list[str]:
    return python_command("-m", module, *arguments)


def _environment(settings: Settings) -> dict[str, str]:
    # Pass the settings in the environment: other users can read a command's options, and a URL may hold a password.
    return {**os.environ, "EATNAS_HOME": str(settings.home), "EATNAS_DB_URL": settings.database_url}


def _failure(errors: str, status: int) -> EatnasError:
    return EatnasError(errors.strip().removeprefix("eatnas-db: ") or f"the program exited with status {status}")
