"""Decide which notifications are due, run the hook command on them, and store the delivered events."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import Engine

from eatnas_daemon.hooks.command import HookCommand
from eatnas_daemon.hooks.delivery_state import DeliveryState
from eatnas_daemon.hooks.notifications import (
    COLLECTED_KINDS,
    Notification,
    list_notifications,
    notification_payload,
)
from eatnas_db.database.event_watermark import EventWatermark
from eatnas_db.database.transactions import read_transaction
from eatnas_db.home_config import HooksConfig
from eatnas_db.queries.events import get_event_time, get_newest_event_before
from eatnas_db.queries.record_uuid import get_record_uuid
from eatnas_db.settings import Settings

TIMEOUT_SECONDS: Final = 60.0
COLLECTION_SECONDS: Final = 600.0
"""The time after a call during which further events of the same kind and search are collected."""
RETRY_DELAYS_SECONDS: Final = (10.0, 60.0)
"""The delays before the second and the third try of a command that failed. There is no fourth try."""


class Notifier:
    """Runs the hook command for each new notification, one at a time.

    If no delivery state exists yet, events before `since` (in seconds since 1970) are not reported. `has_pending` is
    true if some notifications wait for a later call of `deliver`, which sends them even without new events.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        hooks: HooksConfig,
        log: logging.Logger,
        since: float,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        collection_seconds: float = COLLECTION_SECONDS,
        retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._settings, self._kinds, self._log = engine, settings, hooks.events, log
        self._collection_seconds, self._retry_delays_seconds = collection_seconds, retry_delays_seconds
        self._monotonic = monotonic
        self._command = HookCommand(hooks.on_event, settings.home, settings.logs / "hooks.log", timeout_seconds)
        self._state_file = settings.home / "hooks.json"
        self._delivered_at: dict[tuple[str, str], float] = {}
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
        """The number of failed calls in a row and the time of the next try, by kind and search."""
        self.has_pending = False
        self._watermark = EventWatermark()
        self._state = self._load_state(since)
        self._save_state()

    def deliver(self, *, last: bool = False) -> None:
        """Run the command on every notification that is due. The `last` call tries every notification once."""
        until = self._watermark.advance(self._engine)
        with read_transaction(self._engine) as connection:
            notifications = list_notifications(connection, self._kinds, self._state, until)
        for notification in notifications:
            if last or self._is_due(notification):
                self._deliver(notification)
        pending = [notification for notification in notifications if not notification.is_delivered(self._state)]
        self.has_pending = bool(pending)
        pending_ids = [event.id for notification in pending for event in notification.events]
        self._state.advance(min([until, *(event_id - 1 for event_id in pending_ids)]))

    def _is_due(self, notification: Notification) -> bool:
        now = self._monotonic()
        _, retry_at = self._failures.get(notification.key, (0, now))
        delivered_at = self._delivered_at.get(notification.key)
        recent = delivered_at is not None and now - delivered_at < self._collection_seconds
        return now >= retry_at and not (recent and notification.kind in COLLECTED_KINDS)

    def _deliver(self, notification: Notification) -> None:
        with read_transaction(self._engine) as connection:
            payload = notification_payload(connection, notification, self._settings)
        error = self._command.run(payload)
        if error is not None and self._schedule_retry(notification, error):
            return
        self._failures.pop(notification.key, None)
        self._delivered_at[notification.key] = self._monotonic()
        notification.mark_delivered(self._state)
        self._save_state()

    def _schedule_retry(self, notification: Notification, error: str) -> bool:
        """Log a failure of the command. Return whether the command will be tried again."""
        tries = self._failures.get(notification.key, (0, 0.0))[0] + 1
        self._log.warning(
            "hooks.on_event failed for event %s of %s (try %d of %d): %s; see hooks.log for its output",
            notification.kind,
            notification.search,
            tries,
            1 + len(self._retry_delays_seconds),
            error,
        )
        if tries > len(self._retry_delays_seconds):
            return False
        self._failures[notification.key] = tries, self._monotonic() + self._retry_delays_seconds[tries - 1]
        return True

    def _load_state(self, since: float) -> DeliveryState:
        with read_transaction(self._engine) as connection:
            record_uuid = get_record_uuid(connection)
            state = DeliveryState.read(self._state_file, record_uuid)
            if state is None:
                return DeliveryState(record_uuid, get_newest_event_before(connection, since))
            reached = state.delivered_until_at
            if reached != get_event_time(connection, state.delivered_until):
                # A backup was restored: ids after the backup's last event belong to new events, which have later times.
                until = 0 if reached is None else get_newest_event_before(connection, math.nextafter(reached, math.inf))
                return DeliveryState(record_uuid, until)
            return state

    def _save_state(self) -> None:
        with read_transaction(self._engine) as connection:
            self._state.delivered_until_at = get_event_time(connection, self._state.delivered_until)
        try:
            self._state.write(self._state_file)
        except OSError as error:
            self._log.warning(
                "hooks.on_event: %s cannot be written (%s); notifications may be delivered twice",
                self._state_file,
                error.strerror,
            )
