"""Which searches there are, and how each stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from eatnas_db.domain.states import DesiredState, SearchKind
from eatnas_db.errors import NotFoundError
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """A search's row, with its status in words."""

    id: int
    name: str
    kind: str
    status: str
    source_id: int | None
    basic_id: int | None
    basic_code: str | None
    seed: int
    priority: int
    spec: dict[str, Any]
    macro: dict[str, Any]
    task: dict[str, Any]
    data_digest: str
    population: int
    lag: int
    budget_candidates: int
    budget_device_seconds: float | None
    wish: str
    born: int
    settled: int
    scored: int
    device_seconds: float
    exhausted: bool
    quality_mark: float | None
    flat_since: int | None
    ends_at: int | None
    waiting: str | None
    memory_share: float | None
    created_at: float
    finished_at: float | None

    @property
    def births_allowed(self) -> int:
        """The number of births after which the search ends: its budget, or fewer if its quality is flat."""
        return births_allowed(self.budget_candidates, self.ends_at)

    @property
    def over_budget(self) -> bool:
        """Whether the search has used up its device hours."""
        return self.budget_device_seconds is not None and self.device_seconds >= self.budget_device_seconds

    @property
    def ended(self) -> str | None:
        """Why it ended, in words; None while it goes on."""
        if self.wish == DesiredState.CANCELLED:
            return "cancelled"
        if self.finished_at is None:
            return None
        if self.exhausted:
            return "no architecture is left to propose"
        if self.settled >= self.budget_candidates:
            return "its budget of candidates is done"
        if self.settled >= self.births_allowed:
            by = self.spec["evolution"]["flat_by"]
            return f"its quality has not risen by more than {by:g} since step {self.flat_since}"
        return "its device hours are used up" if self.over_budget else None


def births_allowed(budget_candidates: int, ends_at: int | None) -> int:
    """Return the number of births after which a search ends: its budget, or fewer if its quality is flat."""
    return budget_candidates if ends_at is None else min(budget_candidates, ends_at)


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """How far a search is, in a line."""

    name: str
    status: str
    settled: int
    budget: int
    best: float | None
    created_at: float


def get_search(connection: Connection, name: str) -> SearchRecord:
    """The search of this name. Raises `NotFoundError` that names what is there."""
    row = connection.execute(select(search).where(search.c.name == name)).first()
    if row is None:
        names = connection.execute(select(search.c.name).order_by(search.c.id.desc()).limit(5)).scalars().all()
        there = f"there are: {', '.join(names)}" if names else "there are none yet"
        raise NotFoundError(f"no search named {name!r} ({there})")
    return _record(row)


def list_searches(connection: Connection) -> tuple[SearchRecord, ...]:
    """Every search, the newest last."""
    return fetch_searches(connection, select(search).order_by(search.c.id))


def get_open_yardstick(connection: Connection, search_id: int) -> SearchRecord | None:
    """The yardstick of a search that still has to be trained, if there is one."""
    query = select(search).where(
        search.c.source_id == search_id, search.c.kind == SearchKind.YARDSTICK, search.c.finished_at.is_(None)
    )
    row = connection.execute(query.order_by(search.c.id).limit(1)).first()
    return None if row is None else _record(row)


def list_search_summaries(connection: Connection) -> tuple[SearchSummary, ...]:
    """How far every search is, the newest last; reads a search's row and the top of its ranking."""
    top = select(func.max(candidate.c.fitness)).where(candidate.c.search_id == search.c.id).scalar_subquery()
    return tuple(
        SearchSummary(row.name, _status(row), row.settled, row.budget_candidates, row.best, row.created_at)
        for row in connection.execute(select(search, top.label("best")).order_by(search.c.id))
    )


def fetch_searches(connection: Connection, query: Select[Any], **parameters: Any) -> tuple[SearchRecord, ...]:
    """Return the searches that a SELECT of whole rows of `search` finds, in its order."""
    return tuple(_record(row) for row in connection.execute(query, parameters))


def _record(row: Row[Any]) -> SearchRecord:
    return SearchRecord(status=_status(row), **row._mapping)


def _status(row: Row[Any]) -> str:
    if row.wish == DesiredState.CANCELLED:
        return "cancelled"
    if row.finished_at is not None:
        return "finished"
    if row.wish == DesiredState.PAUSED:
        return "paused"
    return f"waiting: {row.waiting}" if row.waiting else "running"
