"""Pause, resume, cancel and extend a search."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from eatnas_db import transitions
from eatnas_db.database.locks import lock_searches
from eatnas_db.domain.states import DesiredState, SearchKind
from eatnas_db.errors import ConflictError
from eatnas_db.events import record_event
from eatnas_db.holds import remove_holds_of_search
from eatnas_db.queries.searches import SearchRecord, get_search
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import breed_births, settle_births

_EVENT_OF_STATE = {
    DesiredState.RUN: "resumed",
    DesiredState.PAUSED: "paused",
    DesiredState.CANCELLED: "cancelled",
}


def set_waiting_reason(connection: Connection, reason: str | None) -> None:
    """Set the reason why all unfinished searches wait, or None if they do not wait."""
    connection.execute(update(search).where(search.c.finished_at.is_(None)).values(waiting=reason))


def set_desired_state(connection: Connection, name: str, desired: DesiredState, now: float) -> None:
    """Run, pause or cancel a search. Raises `NotFoundError` or `ConflictError`."""
    record = _lock_changeable(connection, name)
    if record.finished_at is not None:
        raise ConflictError(f"search {name!r} is finished; extend its budget with `eatnas-db search extend {name}`")
    connection.execute(update(search).where(search.c.id == record.id).values(wish=desired, pause_reason=None))
    if desired == DesiredState.RUN:
        remove_holds_of_search(connection, record.id)  # The user may have removed the cause of the hold.
    detail = {"birth": record.born, "step": record.settled}
    record_event(connection, now, _EVENT_OF_STATE[desired], search_id=record.id, detail=detail)
    if desired == DesiredState.CANCELLED:
        transitions.cancel_unsettled(connection, record.id, now)
        settle_births(connection, record.id, now)
        connection.execute(update(search).where(search.c.id == record.id).values(finished_at=now))


def extend_search(
    connection: Connection, name: str, *, candidates: int = 0, device_hours: float = 0.0, now: float
) -> tuple[int, float | None]:
    """Add candidates and device hours to the budget of a search. A finished search then continues.

    Return the new budget: the number of candidates, and the device seconds (None: unlimited). Raises `NotFoundError` or
    `ConflictError`.
    """
    record = _lock_changeable(connection, name)
    if record.kind == SearchKind.IMPORTED:
        raise ConflictError(
            f"search {name!r} cannot be extended: its scores were imported; start a search from it with "
            f"`eatnas-db transfer {name} SPEC.yaml`"
        )
    if record.kind != SearchKind.EVOLUTION:
        raise ConflictError(
            f"search {name!r} cannot be extended: it measures candidates of another search; extend that search instead"
        )
    if device_hours and record.budget_device_seconds is None:
        raise ConflictError(f"search {name!r} has no limit on device hours; extend it with --candidates")
    if record.exhausted:
        raise ConflictError(
            f"search {name!r} cannot be extended: no new architecture is left in its space; "
            "create a search with a larger space or higher limits"
        )
    budget = record.budget_candidates + candidates
    seconds = record.budget_device_seconds and record.budget_device_seconds + device_hours * 3600
    if seconds is not None and record.device_seconds >= seconds:
        raise ConflictError(
            f"search {name!r} has used {record.device_seconds / 3600:.3g} device hours, but its new budget would be "
            f"{seconds / 3600:.3g}; add more with --device-hours"
        )
    connection.execute(
        update(search)
        .where(search.c.id == record.id)
        .values(
            budget_candidates=budget,
            budget_device_seconds=seconds,
            finished_at=None,
            failed=False,
            # Restart the count of steps without a rise of quality, because this count ends the search.
            ends_at=None,
            flat_since=record.flat_since if record.ends_at is None else record.ends_at,
        )
    )
    first_birth = record.born if record.over_budget else record.births_allowed
    detail = {"candidates": budget, "device_seconds": seconds, "birth": first_birth, "step": record.settled}
    record_event(connection, now, "extended", search_id=record.id, detail=detail)
    breed_births(connection, record.id, now)
    return budget, seconds


def _lock_changeable(connection: Connection, name: str) -> SearchRecord:
    """Lock a search and return it. Raises `NotFoundError`, or `ConflictError` if the search is cancelled."""
    lock_searches(connection, select(search.c.id).where(search.c.name == name))
    record = get_search(connection, name)
    if record.wish == DesiredState.CANCELLED:
        raise ConflictError(
            f"search {name!r} is cancelled, which cannot be undone; create a search with another name instead"
        )
    return record
