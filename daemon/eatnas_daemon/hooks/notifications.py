"""Group events into notifications, and build their payloads. One call of the hook command reports one notification."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection

from eatnas_daemon.hooks.delivery_state import DeliveryState
from eatnas_db.queries.events import RecordedEvent, list_events
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.searches import get_search, list_searches
from eatnas_db.settings import Settings

COLLECTED_KINDS: Final = ("failed", "waiting")
"""Kinds of events that may come in large numbers. One call reports all new events of such a kind in a search."""
MAX_EVENTS: Final = 10_000
"""The number of events of a kind that are read at a time."""


@dataclass(frozen=True, slots=True)
class Notification:
    """Events of one kind in one search, the newest last. A notification without events reports a waiting search.

    `message` describes the notification in a sentence; `at` is in seconds since 1970.
    """

    kind: str
    search: str
    events: tuple[RecordedEvent, ...]
    message: str
    at: float
    waiting_reason: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Return the kind and the search. The rate of calls is limited for each such pair."""
        return self.kind, self.search

    def is_delivered(self, state: DeliveryState) -> bool:
        """Return whether the command has received this notification."""
        if self.events:
            return all(event.id in state.delivered for event in self.events)
        return state.waiting_reasons.get(self.search) == self.waiting_reason

    def mark_delivered(self, state: DeliveryState) -> None:
        """Record in the state that the command has received this notification."""
        state.delivered |= {event.id for event in self.events}
        if self.waiting_reason is not None:
            state.waiting_reasons[self.search] = self.waiting_reason


def list_notifications(
    connection: Connection, kinds: Collection[str], state: DeliveryState, until: int
) -> list[Notification]:
    """Return the undelivered notifications, the oldest first. Events with ids above `until` are left out.

    Removes from `state` the waiting reasons of searches that no longer wait.
    """
    notifications = _event_notifications(connection, kinds, state, until)
    if "waiting" in kinds:
        notifications += _waiting_notifications(connection, state)
    return sorted(notifications, key=lambda notification: notification.at)


def _event_notifications(
    connection: Connection, kinds: Collection[str], state: DeliveryState, until: int
) -> list[Notification]:
    groups: dict[tuple[str, str, int | None], list[RecordedEvent]] = {}
    for kind in kinds:
        for event in list_events(connection, limit=MAX_EVENTS, after=state.delivered_until, kind=kind, until=until):
            if event.search is not None and event.id not in state.delivered:
                key = kind, event.search, None if kind in COLLECTED_KINDS else event.id
                groups.setdefault(key, []).append(event)
    return [
        Notification(kind, search, tuple(events), events[-1].words, events[-1].at)
        for (kind, search, _), events in groups.items()
    ]


def _waiting_notifications(connection: Connection, state: DeliveryState) -> list[Notification]:
    reasons = {
        row.name: row.waiting
        for row in list_searches(connection)
        if row.waiting is not None and row.status.startswith("waiting")
    }
    state.waiting_reasons = {name: text for name, text in state.waiting_reasons.items() if name in reasons}
    return [
        Notification("waiting", name, (), f"the search waits: {reason}", time.time(), waiting_reason=reason)
        for name, reason in reasons.items()
        if state.waiting_reasons.get(name) != reason
    ]


def notification_payload(connection: Connection, notification: Notification, settings: Settings) -> dict[str, Any]:
    """Return the JSON object that the command receives."""
    row = get_search(connection, notification.search)
    # If a manual change has damaged the search, it waits, and the notification gives the reason.
    best = None if row.is_damaged else get_best(connection, row.id)
    events = notification.events
    newest = events[-1] if events else None
    return {
        "event": notification.kind,
        "search": notification.search,
        "words": notification.message,
        "at": datetime.fromtimestamp(notification.at, UTC).isoformat(timespec="seconds"),
        "id": None if newest is None else newest.id,
        "count": max(1, len(events)),
        "candidate": None if newest is None else newest.candidate_id,
        "candidates": [event.candidate_id for event in events if event.candidate_id is not None],
        "detail": None if newest is None else newest.detail,
        "status": row.status,
        "settled": row.settled,
        "budget": row.budget_candidates,
        "best": None if best is None else {"candidate": best.id, "birth": best.birth, "fitness": best.fitness},
        "host": settings.host,
        "home": str(settings.home),
    }
