"""Starts the user's own command when something became of a search. A process of its own, which nothing waits for."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select

from eatnas_daemon.follower import follow
from eatnas_daemon.workers.process_tree import kill_process_tree
from eatnas_db.atomic_files import atomic_write
from eatnas_db.database.engine import open_record
from eatnas_db.database.event_watermark import EventWatermark
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import EatnasError, RecordError
from eatnas_db.file_lock import exclusive_lock
from eatnas_db.home_config import HooksConfig, read_hooks
from eatnas_db.queries.events import RecordedEvent, list_events
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.record_uuid import get_record_uuid
from eatnas_db.queries.searches import get_search, list_searches
from eatnas_db.schema.events import event
from eatnas_db.settings import Settings, load_settings

EVERY_SECONDS: Final = 2.0
LIMIT_SECONDS: Final = 60.0
QUIET_SECONDS: Final = 600.0
PAUSES: Final = (10.0, 60.0)
"""Before the second and the third try of a command that failed; after that it is given up."""
GATHERED: Final = ("failed", "waiting")
"""Kinds that may come in storms: after one, further ones of that search are told together when it was quiet."""
LATEST: Final = 10_000
LARGEST_LOG: Final = 10_000_000
_WAITS: Final = "the search waits: "


@dataclass(slots=True)
class Place:
    """How far the user has been told: of all events up to `after`, and of those beyond it that are in `told`."""

    record: str
    after: int
    told: set[int] = field(default_factory=set)
    waiting: dict[str, str] = field(default_factory=dict)
    """What each waiting search was last said to wait for."""

    @classmethod
    def read(cls, file: Path, uuid: str) -> Place | None:
        """The place as it was written; None where there is none, or it is another record's."""
        try:
            tree = json.loads(file.read_text(encoding="utf-8"))
            place = cls(tree["record"], int(tree["after"]), set(tree["told"]), dict(tree["waiting"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return place if place.record == uuid else None

    def write(self, file: Path) -> None:
        """Replace the file as a whole. Raises `OSError`."""
        with atomic_write(file) as opened:
            opened.write(json.dumps({**asdict(self), "told": sorted(self.told)}).encode())


@dataclass(frozen=True, slots=True)
class News:
    """Events of one kind and search that are told by one call of the command; the last one speaks for them."""

    kind: str
    search: str
    events: tuple[RecordedEvent, ...]
    words: str
    at: float

    @property
    def key(self) -> tuple[str, str]:
        """What is told at most once in a while."""
        return self.kind, self.search


class Notifier:
    """Looks for news, starts the command on them one after the other, and remembers what has been told.

    `holds_back`: whether there is news for later, so that looking again is worth it where nothing was written since.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        hooks: HooksConfig,
        log: logging.Logger,
        since: float,
        *,
        limit: float = LIMIT_SECONDS,
        quiet: float = QUIET_SECONDS,
        pauses: Sequence[float] = PAUSES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._settings, self._hooks, self._log = engine, settings, hooks, log
        self._limit, self._quiet, self._pauses, self._monotonic = limit, quiet, pauses, monotonic
        self._file = settings.home / "hooks.json"
        self._told_at: dict[tuple[str, str], float] = {}
        self._failed: dict[tuple[str, str], tuple[int, float]] = {}
        self.holds_back = False
        self._horizon = EventWatermark()
        with read_transaction(engine) as connection:
            uuid = get_record_uuid(connection)
            place = Place.read(self._file, uuid)
            if place is None:
                # The first time: what happened before is no news.
                before = connection.execute(select(func.max(event.c.id)).where(event.c.at < since)).scalar()
                place = Place(uuid, before or 0)
        self._place = place
        self._save()

    def look(self, *, last: bool = False) -> None:
        """Tell what is new. The `last` look tells also what was held back, each at most once."""
        complete = self._horizon.advance(self._engine)
        with read_transaction(self._engine) as connection:
            news = [*self._happened(connection, complete), *self._waiting(connection)]
        for one in sorted(news, key=lambda one: one.at):
            if last or self._is_due(one):
                self._tell(one)
        self.holds_back = any(not self._is_told(one) for one in news)
        pending = [event.id for one in news for event in one.events if event.id not in self._place.told]
        self._place.after = max(self._place.after, min([complete, *(number - 1 for number in pending)]))
        self._place.told = {number for number in self._place.told if number > self._place.after}

    def _is_told(self, news: News) -> bool:
        if news.events:
            return all(event.id in self._place.told for event in news.events)
        return self._place.waiting.get(news.search) == news.words.removeprefix(_WAITS)

    def _happened(self, connection: Connection, complete: int) -> list[News]:
        events = [
            one
            for kind in self._hooks.events
            for one in list_events(connection, limit=LATEST, after=self._place.after, kind=kind, until=complete)
        ]
        groups: dict[Any, list[RecordedEvent]] = {}
        for one in events:
            if one.id not in self._place.told and one.search is not None:
                gathered = one.kind in GATHERED
                groups.setdefault((one.kind, one.search, None if gathered else one.id), []).append(one)
        return [
            News(kind, search, tuple(group), group[-1].words, group[-1].at)
            for (kind, search, _), group in groups.items()
        ]

    def _waiting(self, connection: Connection) -> list[News]:
        if "waiting" not in self._hooks.events:
            return []
        waiting = {
            row.name: row.waiting
            for row in list_searches(connection)
            if row.waiting is not None and row.status.startswith("waiting")
        }
        self._place.waiting = {name: why for name, why in self._place.waiting.items() if name in waiting}
        return [
            News("waiting", name, (), f"{_WAITS}{why}", time.time())
            for name, why in waiting.items()
            if self._place.waiting.get(name) != why
        ]

    def _is_due(self, news: News) -> bool:
        now = self._monotonic()
        _, again_at = self._failed.get(news.key, (0, now))
        told_at = self._told_at.get(news.key)
        resting = news.kind in GATHERED and told_at is not None and now - told_at < self._quiet
        return now >= again_at and not resting

    def _tell(self, news: News) -> None:
        with read_transaction(self._engine) as connection:
            facts = self._facts(connection, news)
        trouble = self._call(news, facts)
        if trouble is not None:
            tries = self._failed.get(news.key, (0, 0.0))[0] + 1
            self._log.warning(
                "hooks.on_event, %s of %s, try %d of %d: %s; what it wrote is in hooks.log",
                news.kind,
                news.search,
                tries,
                1 + len(self._pauses),
                trouble,
            )
            if tries <= len(self._pauses):
                self._failed[news.key] = tries, self._monotonic() + self._pauses[tries - 1]
                return
        self._failed.pop(news.key, None)
        self._told_at[news.key] = self._monotonic()
        self._place.told |= {event.id for event in news.events}
        if not news.events:
            self._place.waiting[news.search] = news.words.removeprefix(_WAITS)
        self._save()

    def _facts(self, connection: Connection, news: News) -> dict[str, Any]:
        row = get_search(connection, news.search)
        best = get_best(connection, row.id)
        last = news.events[-1] if news.events else None
        return {
            "event": news.kind,
            "search": news.search,
            "words": news.words,
            "at": datetime.fromtimestamp(news.at, UTC).isoformat(timespec="seconds"),
            "id": None if last is None else last.id,
            "count": max(1, len(news.events)),
            "candidate": None if last is None else last.candidate_id,
            "candidates": [one.candidate_id for one in news.events if one.candidate_id is not None],
            "detail": None if last is None else last.detail,
            "status": row.status,
            "settled": row.settled,
            "budget": row.budget_candidates,
            "best": None if best is None else {"candidate": best.id, "birth": best.birth, "fitness": best.fitness},
            "host": self._settings.host,
            "home": str(self._settings.home),
        }

    def _call(self, news: News, facts: dict[str, Any]) -> str | None:
        """Run the command to its end; what went wrong, if something did."""
        environment = {
            **os.environ,
            "EATNAS_EVENT": news.kind,
            "EATNAS_SEARCH": news.search,
            "EATNAS_WORDS": news.words,
            "EATNAS_COUNT": str(facts["count"]),
            "EATNAS_CANDIDATE": "" if facts["candidate"] is None else str(facts["candidate"]),
        }
        try:
            with tempfile.TemporaryFile() as told, self._output(news) as output:
                told.write(json.dumps(facts).encode())
                told.seek(0)
                process = subprocess.Popen(
                    self._hooks.on_event,
                    cwd=self._settings.home,
                    env=environment,
                    stdin=told,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                try:
                    status = process.wait(self._limit)
                except subprocess.TimeoutExpired:
                    kill_process_tree(process.pid)
                    process.wait()
                    return f"the command was not done after {self._limit:g} s, and was killed"
        except OSError as error:
            return f"the command cannot be started: {error}"
        if status < 0:
            return f"the command was ended by signal {-status}"
        return f"the command left with status {status}" if status else None

    def _output(self, news: News) -> Any:
        file = self._settings.logs / "hooks.log"
        with suppress(OSError):
            if file.stat().st_size > LARGEST_LOG:
                file.replace(file.with_name("hooks.log.1"))
        try:
            output = file.open("ab", buffering=0)
            output.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} {news.kind} of {news.search}\n".encode())
        except OSError:  # a full disk costs the log, not the news
            return Path(os.devnull).open("ab")
        return output

    def _save(self) -> None:
        try:
            self._place.write(self._file)
        except OSError as error:
            self._log.warning("hooks.on_event: %s cannot be written (%s); news may be told twice", self._file, error)


def watch(notifier: Notifier, engine: Engine, log: logging.Logger, every: float = EVERY_SECONDS) -> None:
    """Tell the news of a record, until the parent ends."""

    def look(due: bool, last: bool) -> None:
        if due or notifier.holds_back:
            notifier.look(last=last)

    follow(engine, every, look, lambda error: log.warning("hooks.on_event: %s", error), RecordError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Follow a record in a child process."""
    parser = argparse.ArgumentParser(
        prog="python -m eatnas_daemon.hooks",
        description=f"{__doc__} EATNAS_HOME and EATNAS_DB_URL say where home and record are.",
    )
    parser.add_argument("--since", type=float, default=0.0, help="what happened before is no news, the first time")
    parser.add_argument("--every", type=float, default=EVERY_SECONDS, help="seconds between two looks")
    options = parser.parse_args(arguments)
    settings = load_settings(os.environ)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        hooks = read_hooks(settings.home)
        if hooks is None:
            return
        log = _daemon_log(settings)
        engine = open_record(settings.database_url)
        # The follower of a daemon that has just ended may still tell its last.
        with exclusive_lock(settings.home / "hooks.lock"):
            watch(Notifier(engine, settings, hooks, log, options.since), engine, log, options.every)
    except EatnasError as error:
        sys.exit(str(error))


def _daemon_log(settings: Settings) -> logging.Logger:
    """The daemon's own log, which may be renamed under us; lines look like its own."""
    handler = WatchedFileHandler(settings.logs / "daemon.log", encoding="utf-8", delay=True)
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    log = logging.getLogger("eatnas.hooks")
    log.handlers, log.propagate = [handler], False
    logging.raiseExceptions = False
    return log


if __name__ == "__main__":
    main()
