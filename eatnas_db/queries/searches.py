"""Query the searches of a record and their status."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, select

from eatnas_db.database.stored_json import DamagedJson
from eatnas_db.domain.objective import LATENCY, Objective
from eatnas_db.domain.objectives import OptimizedMetric, latency_settings, list_objectives
from eatnas_db.domain.states import DesiredState, SearchKind
from eatnas_db.errors import NotFoundError
from eatnas_db.queries.holds import FIRST_REASON, is_trained_elsewhere
from eatnas_db.schema.candidates import FITTEST_FIRST, candidate
from eatnas_db.schema.searches import search

RUN_WITH_SOURCE: Final = (SearchKind.REEVALUATION, SearchKind.RETRY)
"""The kinds of searches that `search run` trains together with their source."""


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """A row of the table of searches, and its status: running, waiting, paused, finished, failed or cancelled.

    `waiting` is the reason why the search waits, and `pause_reason` is the reason why a daemon has paused it. A search
    that ends without a scored candidate has failed. The first `initial_births` are decided without any score. Equal
    failures are counted from birth `streak_start` on.
    """

    id: int
    name: str
    kind: str
    status: str
    source_id: int | None
    source_seconds: float | None
    basic_id: int | None
    basic_code: str | None
    seed: int
    priority: int
    spec: dict[str, Any]
    macro: dict[str, Any]
    task: dict[str, Any]
    data_digest: str
    data_state: dict[str, Any] | None
    population: int
    initial_births: int
    lag: int
    budget_candidates: int
    budget_device_seconds: float | None
    wish: str
    born: int
    settled: int
    scored: int
    device_seconds: float
    exhausted: bool
    failed: bool
    quality_mark: float | None
    flat_since: int | None
    ends_at: int | None
    waiting: str | None
    pause_reason: str | None
    streak_start: int
    memory_share: float | None
    created_at: float
    finished_at: float | None

    @property
    def objective(self) -> Objective:
        """The metric that the search optimizes, its direction, and the weight of the cost."""
        return Objective.from_spec(self.spec)

    @property
    def is_damaged(self) -> bool:
        """Whether the spec, the macro or the task is not JSON, because somebody edited the record manually."""
        return any(isinstance(value, DamagedJson) for value in (self.spec, self.macro, self.task))

    def require_whole(self) -> None:
        """Raise `DamagedRecordError` if the search is damaged."""
        for value in (self.spec, self.macro, self.task):
            len(value)

    @property
    def has_sources(self) -> bool:
        """Whether the model of this search uses the predictions of other searches' models as its prior mean."""
        return bool(self.spec["transfer"]["start"] == "model")

    @property
    def objectives(self) -> tuple[OptimizedMetric, ...]:
        """The objectives of a search with several objectives, or an empty tuple for a search with one objective."""
        return list_objectives(self.spec)

    @property
    def machine_dependence(self) -> str | None:
        """The reason why the births of the search depend on the machine; None if they do not depend on it."""
        latency = latency_settings(self.objectives)
        return None if latency is None else f"births depend on {LATENCY}, which is measured on {latency.device}"

    @property
    def births_allowed(self) -> int:
        """The number of births after which the search ends: the budget, or fewer if the quality has become flat."""
        return births_allowed(self.budget_candidates, self.ends_at)

    @property
    def over_budget(self) -> bool:
        """Whether the search has used up its device hours."""
        return self.budget_device_seconds is not None and self.device_seconds >= self.budget_device_seconds

    @property
    def ended(self) -> str | None:
        """The reason why the search ended; None if it has not ended."""
        if self.wish == DesiredState.CANCELLED:
            return "cancelled"
        if self.finished_at is None:
            return None
        if self.failed:
            return "none of its candidates has a score"
        if self.kind == SearchKind.IMPORTED:
            return "its scores were imported"
        if self.exhausted:
            return "the search space is exhausted"
        if self.settled >= self.budget_candidates:
            return "it has trained its budget of candidates"
        if self.settled >= self.births_allowed:
            by = self.spec["evolution"]["flat_by"]
            return f"the quality has not improved by more than {by:g} since step {self.flat_since}"
        return "it has used up its device hours" if self.over_budget else None


def births_allowed(budget_candidates: int, ends_at: int | None) -> int:
    """Return the number of births after which a search ends: its budget, or `ends_at` if that is less."""
    return budget_candidates if ends_at is None else min(budget_candidates, ends_at)


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """The status of a search, its settled births, its budget and its best fitness."""

    name: str
    status: str
    settled: int
    budget: int
    best: float | None
    created_at: float


_SELECT_WITH_HOLD: Final[Select[Any]] = select(search, FIRST_REASON.label("held"))


def get_search(connection: Connection, name: str) -> SearchRecord:
    """Return the search with this name. Raises `NotFoundError`, which names the newest searches."""
    row = connection.execute(_SELECT_WITH_HOLD.where(search.c.name == name)).first()
    if row is None:
        names = connection.execute(select(search.c.name).order_by(search.c.id.desc()).limit(5)).scalars().all()
        newest = f"the newest searches are: {', '.join(names)}" if names else "the record has no searches"
        raise NotFoundError(f"no search named {name!r}; {newest}")
    return _record(row, _waiting(connection, row))


def list_searches(connection: Connection) -> tuple[SearchRecord, ...]:
    """Return every search, the newest last."""
    rows = connection.execute(_SELECT_WITH_HOLD.order_by(search.c.id)).all()
    return tuple(_record(row, _waiting(connection, row)) for row in rows)


def get_open_reevaluation(connection: Connection, search_id: int) -> SearchRecord | None:
    """Return the unfinished re-evaluation of a search, or None."""
    query = _SELECT_WITH_HOLD.where(
        search.c.source_id == search_id, search.c.kind == SearchKind.REEVALUATION, search.c.finished_at.is_(None)
    )
    row = connection.execute(query.order_by(search.c.id).limit(1)).first()
    return None if row is None else _record(row, _waiting(connection, row))


def measure_device_seconds(connection: Connection, search_id: int) -> float:
    """Return the device seconds that a search and its re-evaluations have used so far."""
    is_reevaluation = (search.c.source_id == search_id) & (search.c.kind == SearchKind.REEVALUATION)
    query = select(search.c.device_seconds).where((search.c.id == search_id) | is_reevaluation).order_by(search.c.id)
    return math.fsum(connection.execute(query).scalars())


def list_open_retrainings(connection: Connection, search_id: int) -> tuple[SearchRecord, ...]:
    """Return the unfinished re-evaluations and retries of a search, the oldest first."""
    query = _SELECT_WITH_HOLD.where(
        search.c.source_id == search_id, search.c.kind.in_(RUN_WITH_SOURCE), search.c.finished_at.is_(None)
    )
    rows = connection.execute(query.order_by(search.c.id)).all()
    return tuple(_record(row, _waiting(connection, row)) for row in rows)


def list_search_summaries(connection: Connection) -> tuple[SearchSummary, ...]:
    """Return a summary of every search, the newest last."""
    best = (
        select(candidate.c.fitness)
        .where(candidate.c.search_id == search.c.id, candidate.c.fitness.is_not(None))
        .order_by(*FITTEST_FIRST)
        .limit(1)
        .scalar_subquery()
    )
    query = _SELECT_WITH_HOLD.add_columns(best.label("best")).order_by(search.c.id)
    return tuple(
        SearchSummary(
            name=row.name,
            status=_status(row, _waiting(connection, row)),
            settled=row.settled,
            budget=row.budget_candidates,
            best=row.best,
            created_at=row.created_at,
        )
        for row in connection.execute(query).all()
    )


def fetch_searches(connection: Connection, query: Select[Any], **parameters: Any) -> tuple[SearchRecord, ...]:
    """Return the searches that `query` selects, in the order of the query.

    `query` must select whole rows of `search`.
    """
    return tuple(_record(row, row.waiting) for row in connection.execute(query, parameters))


def _waiting(connection: Connection, row: Row[Any]) -> str | None:
    """Return the reason why a search waits, or None.

    A reason that affects all searches, such as a full disk, takes precedence.
    """
    waiting: str | None = row.waiting
    if waiting is None and row.held is not None and not is_trained_elsewhere(connection, row.id):
        return str(row.held)
    return waiting


def _record(row: Row[Any], waiting: str | None) -> SearchRecord:
    values = {column.name: row._mapping[column.name] for column in search.c}
    return SearchRecord(**{**values, "status": _status(row, waiting), "waiting": waiting})


def _status(row: Row[Any], waiting: str | None) -> str:
    if row.wish == DesiredState.CANCELLED:
        return "cancelled"
    if row.finished_at is not None:
        return "failed" if row.failed else "finished"
    if row.wish == DesiredState.PAUSED:
        return f"paused: {row.pause_reason}" if row.pause_reason else "paused"
    return f"waiting: {waiting}" if waiting else "running"
