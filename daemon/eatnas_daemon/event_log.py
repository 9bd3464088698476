"""Write the daemon's log: one line for each unusual event, each ended worker, and each problem."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_db.database.event_watermark import EventWatermark
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import RecordError
from eatnas_db.queries.events import RecordedEvent, list_events

MAX_BYTES: Final = 10_000_000
BACKUP_COUNT: Final = 3
INTERVAL_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 60.0
"""The seconds to wait after an unexpected exception."""
MAX_EVENTS: Final = 1000
"""The number of events that are read at a time."""
ROUTINE_KINDS: Final = frozenset(
    {"born", "leased", "scored", "released", "resumed", "started_afresh", "checkpoint_adopted"}
)
"""The kinds of events of a candidate that trains without problems. The record contains these events, but the log leaves
them out.
"""


def open_log(file: Path) -> logging.Logger:
    """Return the daemon's logger, which writes lines with UTC times to files of limited size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(
        file, maxBytes=MAX_BYTES, backupCount=BACKUP_COUNT, encoding="utf-8", errors="backslashreplace"
    )
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logger = logging.getLogger("eatnas")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # Otherwise, the logger would print an error for each line while the disk is full.
    logging.raiseExceptions = False
    return logger


@dataclass(frozen=True, slots=True)
class _LoggedWorker:
    pid: int
    device: str
    exit_reason: str | None


class EventLog:
    """Logs new events, ended workers and problems after each tick of a supervisor."""

    def __init__(self, engine: Engine, log: logging.Logger) -> None:
        self._engine, self._log = engine, log
        self._workers: dict[int, _LoggedWorker] = {}
        self._trouble: str | None = None
        self._read_at = 0.0
        self._watermark = EventWatermark()
        with read_transaction(engine) as connection:
            self._last_event_id = max((event.id for event in list_events(connection, limit=1)), default=0)

    def update(self, supervisor: Supervisor, *, at_once: bool = False) -> None:
        """Log ended workers and problems. Also log the record's events, once a second or if `at_once` is true."""
        self._log_workers(supervisor)
        self._log_trouble(supervisor.trouble)
        for error in supervisor.errors:
            self._log.error("unexpected error; everything else continues\n%s", error)
        supervisor.errors.clear()
        now = time.monotonic()
        if now >= self._read_at or at_once:
            self._read_at = now + INTERVAL_SECONDS
            try:
                self._log_events()
            except Exception:
                self._read_at = now + RETRY_SECONDS
                self._log.exception("the events cannot be logged")

    def _log_workers(self, supervisor: Supervisor) -> None:
        workers = {
            slot.number: _LoggedWorker(slot.worker.process.pid, slot.device.label, slot.worker.exit_reason)
            for slot in supervisor.slots
            if slot.worker is not None and slot.worker.process.pid  # a pending worker has no pid yet
        }
        for number, worker in self._workers.items():
            if number not in workers or workers[number].pid != worker.pid:
                details = worker.exit_reason or f"see worker-{number}.log"
                self._log.info("worker of slot %d on %s (pid %d) ended: %s", number, worker.device, worker.pid, details)
        self._workers = workers

    def _log_trouble(self, trouble: str | None) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            self._log.info("training continues")
        else:
            self._log.error("training cannot continue: %s", trouble)

    def _log_events(self) -> None:
        try:
            until = self._watermark.advance(self._engine)
            with read_transaction(self._engine) as connection:
                events = list_events(connection, limit=MAX_EVENTS, after=self._last_event_id, until=until)
        except RecordError as error:
            self._log.error("%s", error)
            return
        for event in events:
            if event.candidate_id is None or event.kind not in ROUTINE_KINDS:
                self._log_event(event)
        self._last_event_id = max((event.id for event in events), default=self._last_event_id)

    def _log_event(self, event: RecordedEvent) -> None:
        subject = "" if event.candidate_id is None else f", candidate {event.candidate_id}"
        level = logging.INFO if event.candidate_id is None else logging.WARNING
        self._log.log(level, "%s%s: %s", event.search, subject, event.words)
