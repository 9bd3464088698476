"""The daemon's log: what happens while it works, a line each, fed from the record's events and the supervisor."""

from __future__ import annotations

import logging
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_db.database.event_watermark import EventWatermark
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import RecordError
from eatnas_db.queries.events import RecordedEvent, list_events

LARGEST_BYTES: Final = 10_000_000
KEPT_FILES: Final = 3
LOOK_SECONDS: Final = 1.0
LATEST: Final = 1000
DAILY: Final = frozenset({"born", "leased", "scored", "released", "resumed", "started_afresh", "checkpoint_adopted"})
"""What a candidate lives through when all goes well; the record has it, the log leaves it out."""


def open_log(file: Path) -> logging.Logger:
    """The daemon's logger: lines in UTC, in files of limited size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(file, maxBytes=LARGEST_BYTES, backupCount=KEPT_FILES, encoding="utf-8")
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logger = logging.getLogger("eatnas")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # A full disk must not fill the terminal with the logger's own errors.
    logging.raiseExceptions = False
    return logger


class Journal:
    """Looks at the supervisor after each tick, and logs what is new."""

    def __init__(self, engine: Engine, log: logging.Logger) -> None:
        self._engine, self._log = engine, log
        self._workers: dict[int, tuple[int, str, str | None]] = {}
        self._trouble: str | None = None
        self._look_at = 0.0
        self._horizon = EventWatermark()
        with read_transaction(engine) as connection:
            self._after = max((event.id for event in list_events(connection, limit=1)), default=0)

    def look(self, supervisor: Supervisor, *, at_once: bool = False) -> None:
        """Log workers that have ended, trouble, and once a second what the record tells."""
        workers = {
            slot.number: (slot.worker.process.pid, slot.device.label, slot.worker.exit_reason)
            for slot in supervisor.slots
            if slot.worker is not None
        }
        for number, (pid, device, evicted) in self._workers.items():
            if number not in workers or workers[number][0] != pid:
                why = f": {evicted}" if evicted else f"; its words are in worker-{number}.log"
                self._log.info("the worker of slot %d on %s, pid %d, has ended%s", number, device, pid, why)
        self._workers = workers
        if supervisor.trouble != self._trouble:
            self._trouble = supervisor.trouble
            if self._trouble is None:
                self._log.info("the trouble is over")
            else:
                self._log.error("trouble: %s", self._trouble)
        now = time.monotonic()
        if now >= self._look_at or at_once:
            self._look_at = now + LOOK_SECONDS
            self._look_at_record()

    def _look_at_record(self) -> None:
        try:
            until = self._horizon.advance(self._engine)
            with read_transaction(self._engine) as connection:
                events = list_events(connection, limit=LATEST, after=self._after, until=until)
        except RecordError as error:
            self._log.error("%s", error)
            return
        for event in events:
            if event.candidate_id is None or event.kind not in DAILY:
                self._tell(event)
        self._after = max((event.id for event in events), default=self._after)

    def _tell(self, event: RecordedEvent) -> None:
        of = "" if event.candidate_id is None else f", candidate {event.candidate_id}"
        level = logging.INFO if event.candidate_id is None else logging.WARNING
        self._log.log(level, "%s%s: %s", event.search, of, event.words)
