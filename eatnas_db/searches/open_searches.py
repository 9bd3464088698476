"""Find, with one SQL statement, the searches that a supervisor can advance or lease candidates from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, or_, select, true

from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.locks import lock_searches
from eatnas_db.domain.failure_policy import MAX_BACKOFF_SECONDS
from eatnas_db.domain.states import SETTLED, DesiredState
from eatnas_db.queries.searches import RUN_WITH_SOURCE, SearchRecord, fetch_searches
from eatnas_db.schema.candidates import PENDING, WAITING, candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import lease

_OPEN: Final = search.c.finished_at.is_(None)
_RUNS: Final = and_(_OPEN, search.c.wish == DesiredState.RUN)
_BIRTHS_ALLOWED: Final = func.coalesce(search.c.ends_at, search.c.budget_candidates)
_OVER_BUDGET: Final = and_(
    search.c.budget_device_seconds.is_not(None), search.c.device_seconds >= search.c.budget_device_seconds
)

_CAN_SETTLE: Final = exists().where(
    candidate.c.search_id == search.c.id, candidate.c.birth == search.c.settled, candidate.c.state.in_(SETTLED)
)
_CAN_DECIDE: Final = exists().where(candidate.c.search_id == search.c.id, WAITING)
_CAN_BREED: Final = and_(
    search.c.exhausted.is_(False),
    search.c.born < search.c.budget_candidates,
    search.c.born < _BIRTHS_ALLOWED,
    ~_OVER_BUDGET,
    or_(search.c.born < search.c.initial_births, search.c.born - search.c.lag + 1 <= search.c.settled),
)
_TRAINS: Final = (
    select(lease.c.candidate_id)
    .join(candidate, candidate.c.id == lease.c.candidate_id)
    # The sum keeps query planners from using an index on the search, with which they would read all its candidates.
    .where(candidate.c.search_id + 0 == search.c.id)
    .exists()
)
_ALL_SETTLED: Final = and_(
    search.c.settled == search.c.born,
    or_(search.c.exhausted.is_(True), search.c.born >= search.c.budget_candidates, search.c.born >= _BIRTHS_ALLOWED),
)
_CAN_FINISH: Final = and_(or_(_OVER_BUDGET, _ALL_SETTLED), ~_TRAINS)
_CAN_ADVANCE: Final = and_(_RUNS, or_(_CAN_BREED, _CAN_SETTLE, _CAN_DECIDE, _CAN_FINISH))
"""The conditions of `advance_state`, `settling`, `rung_decisions`, `breeding` and `finishing` in SQL."""

BY_PRIORITY: Final = (search.c.priority.desc(), search.c.id)


def lock_open_searches(connection: Connection) -> None:
    """Lock every open search until the transaction ends."""
    lock_searches(connection, select(search.c.id).where(_OPEN))


def lock_active_searches(
    connection: Connection,
    host_id: int,
    only: str | None,
    *,
    held: Collection[int],
    to_lease: int,
    everything: bool,
    now: float,
) -> frozenset[int] | None:
    """Lock the searches to advance, the searches with leases of a host, and the first `to_lease` searches with a
    candidate to lease.

    Until the transaction ends, no other host changes these searches. Other open searches are locked only if
    `everything` is true, because a server writes each lock to disk. `held` are the ids of searches to lock as well.
    Return the ids of the locked searches, or None on SQLite, where a write transaction locks the whole database.
    """
    if not is_postgresql(connection):
        return None
    own_leases = select(candidate.c.search_id).join(lease, lease.c.candidate_id == candidate.c.id)
    leasing = _select_leasable(only, now, ()).with_only_columns(search.c.id).limit(to_lease).subquery()
    needed = or_(
        search.c.id.in_(own_leases.where(lease.c.host_id == host_id)),
        search.c.id.in_(select(search.c.id).where(_CAN_ADVANCE, _is_meant(only))),
        search.c.id.in_(select(leasing.c.id)),
    )
    if held:
        needed = or_(needed, search.c.id.in_(held))
    return lock_searches(connection, select(search.c.id).where(or_(_OPEN, needed) if everything else needed))


def list_active_searches(
    connection: Connection, only: str | None, *, stopping: Collection[int], held: Collection[int]
) -> tuple[SearchRecord, ...]:
    """Return the searches that can be advanced, sorted by priority.

    `only` limits the result to the search of this name, its re-evaluations and its retries. `stopping` are ids of
    searches to add if they no longer run, because their workers have to stop. `held` are ids of searches to add if they
    still run.
    """
    # Use subqueries, because query planners do not use the index of the open searches for an OR.
    advancing = select(search.c.id).where(_CAN_ADVANCE, _is_meant(only))
    given = and_(search.c.id.in_([*stopping, *held]), _is_meant(only))
    stopped = and_(search.c.id.in_(stopping), search.c.wish != DesiredState.RUN)
    waiting = and_(search.c.id.in_(held), _RUNS)
    others = select(search.c.id).where(given, or_(stopped, waiting))
    found = search.c.id.in_(advancing)
    query = select(search).where(or_(found, search.c.id.in_(others)) if stopping or held else found)
    return fetch_searches(connection, query.order_by(*BY_PRIORITY))


def list_leasable_searches(
    connection: Connection, only: str | None, now: float, *, limit: int, after: Sequence[SearchRecord] = ()
) -> tuple[SearchRecord, ...]:
    """Return the first `limit` running searches that have a candidate to lease, sorted by priority.

    `after` are the searches that earlier calls returned.

    On a server the searches are locked, and searches that another host has locked are left out.
    """
    query = _select_leasable(only, now, after).limit(limit)
    return fetch_searches(connection, query.with_for_update(of=search, skip_locked=True, key_share=True))


def read_leasable_searches(
    connection: Connection, only: str | None, now: float, *, limit: int
) -> tuple[SearchRecord, ...]:
    """Return the same as `list_leasable_searches` without locking the searches."""
    return fetch_searches(connection, _select_leasable(only, now, ()).limit(limit))


def has_running_search(connection: Connection, only: str) -> bool:
    """Return whether a search, or any of its re-evaluations or retries, is running."""
    return connection.execute(select(search.c.id).where(_RUNS, _is_meant(only)).limit(1)).first() is not None


def _select_leasable(only: str | None, now: float, after: Sequence[SearchRecord]) -> Select[Any]:
    waits = and_(candidate.c.not_before > now, candidate.c.not_before <= now + MAX_BACKOFF_SECONDS)
    is_pending = exists().where(candidate.c.search_id == search.c.id, PENDING, ~waits)
    query = select(search).where(_RUNS, ~_OVER_BUDGET, is_pending, _is_meant(only)).order_by(*BY_PRIORITY)
    if after:
        last = after[-1]
        lower = search.c.priority < last.priority
        query = query.where(or_(lower, and_(search.c.priority == last.priority, search.c.id > last.id)))
    return query


def _is_meant(only: str | None) -> ColumnElement[bool]:
    if only is None:
        return true()
    named = select(search.c.id).where(search.c.name == only).scalar_subquery()
    return or_(search.c.id == named, and_(search.c.kind.in_(RUN_WITH_SOURCE), search.c.source_id == named))
