"""Pause, resume, cancel and extend a search."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from eatnas_db import events, transitions
from eatnas_db.database.locks import lock_searches
from eatnas_db.domain.states import UNSETTLED, DesiredState, SearchKind
from eatnas_db.errors import ConflictError
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import breed_births, settle_births


def set_waiting_reason(connection: Connection, why: str | None) -> None:
    """Say of every open search what its training waits for; None: for nothing."""
    connection.execute(update(search).where(search.c.finished_at.is_(None)).values(waiting=why))


def set_desired_state(connection: Connection, name: str, wish: DesiredState, now: float) -> None:
    """Run, pause or cancel a search. Raises `NotFoundError`, `ConflictError`."""
    lock_searches(connection, select(search.c.id).where(search.c.name == name))
    row = get_search(connection, name)
    if row.wish == DesiredState.CANCELLED:
        raise ConflictError(f"search {name!r} was cancelled, which is final; create it again under another name")
    if row.finished_at is not None:
        raise ConflictError(f"search {name!r} has finished; `search extend` gives it more to do")
    connection.execute(update(search).where(search.c.id == row.id).values(wish=wish))
    events.record_event(connection, now, {"run": "resumed"}.get(wish, wish), row.id)
    if wish == DesiredState.CANCELLED:
        open_ = select(candidate.c.id).where(candidate.c.search_id == row.id, candidate.c.state.in_(UNSETTLED))
        for candidate_id in connection.execute(open_).scalars().all():
            transitions.cancel(connection, candidate_id, now)
        settle_births(connection, row.id, now)
        connection.execute(update(search).where(search.c.id == row.id).values(finished_at=now))


def extend_search(
    connection: Connection, name: str, *, candidates: int = 0, device_hours: float = 0.0, now: float
) -> tuple[int, float | None]:
    """Give a search more candidates or device hours; reopens a finished one, and one whose quality is flat.

    The new budget: candidates, and device seconds or None where they are unlimited. Raises `NotFoundError`,
    `ConflictError`.
    """
    lock_searches(connection, select(search.c.id).where(search.c.name == name))
    row = get_search(connection, name)
    if row.wish == DesiredState.CANCELLED:
        raise ConflictError(f"search {name!r} was cancelled, which is final; create it again under another name")
    if row.kind != SearchKind.EVOLUTION:
        raise ConflictError(f"{name!r} measures what another search found: extend that one")
    if device_hours and row.budget_device_seconds is None:
        raise ConflictError(f"search {name!r} has no limit of device hours to extend; --candidates gives it more")
    if row.exhausted:
        raise ConflictError(
            f"search {name!r} found nothing new in its space any more; a larger space or wider limits need a new search"
        )
    budget = row.budget_candidates + candidates
    seconds = row.budget_device_seconds and row.budget_device_seconds + device_hours * 3600
    connection.execute(
        update(search)
        .where(search.c.id == row.id)
        .values(
            budget_candidates=budget,
            budget_device_seconds=seconds,
            finished_at=None,
            # Quality has as many steps again in which to rise.
            ends_at=None,
            flat_since=row.flat_since if row.ends_at is None else row.ends_at,
        )
    )
    detail = {"candidates": budget, "device_seconds": seconds}
    events.record_event(connection, now, "extended", row.id, detail=detail)
    breed_births(connection, row.id, now)
    return budget, seconds
