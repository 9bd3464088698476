"""What a home takes on the disk, by what it is for, and what of it would go first."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import Connection, Engine, select

from eatnas_db.checkpoint_files import owner_of_file
from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.states import SETTLED
from eatnas_db.queries.inheritance import has_unsettled_child
from eatnas_db.schema.candidates import PENDING, candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import checkpoint, lease
from eatnas_db.settings import Settings

GRACE_SECONDS: Final = 3600.0
"""A file without a row may be one that is being written, or whose row is about to come."""
_LOG: Final = re.compile(r"candidate-(\d+)\.log")


class RemovalOrder(IntEnum):
    """What goes first. Whatever a candidate that is to be trained, or is in training, could go on from never goes."""

    LEFTOVER = 1
    """Files that nobody needs, and logs of candidates that have ended."""
    OLDER = 2
    """Checkpoints of candidates that have ended, but for the newest of each."""
    NEWEST = 3
    """The newest, in searches that are finished: where it is wanted again, the candidate is trained again."""


@dataclass(frozen=True, slots=True)
class RemovableFile:
    """A file that may go. `row`: what the record calls it, if it knows it."""

    path: Path
    bytes: int
    changed_at: float
    order: RemovalOrder
    row: str | None = None


@dataclass(slots=True)
class DiskUsage:
    """Bytes in a home, without its data sets. `checkpoints` are by search, `unknown` of no search that is there."""

    database: int = 0
    write_ahead_log: int = 0
    checkpoints: Counter[str] = field(default_factory=Counter)
    logs: int = 0
    mlflow: int = 0
    other: int = 0
    removable: list[RemovableFile] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """All of it."""
        parts = (self.database, self.write_ahead_log, self.checkpoints.total(), self.logs, self.mlflow, self.other)
        return sum(parts)


def select_for_removal(usage: DiskUsage, limit: int) -> list[RemovableFile]:
    """The files that have to go so that the home takes at most `limit` bytes; all that may, where that is not enough.

    In the order of `RemovalOrder`, and of equals the oldest first.
    """
    going: list[RemovableFile] = []
    excess = usage.bytes - limit
    for file in sorted(usage.removable, key=lambda one: (one.order, one.changed_at)):
        if excess <= 0:
            break
        going.append(file)
        excess -= file.bytes
    return going


@dataclass(frozen=True, slots=True)
class _Known:
    """What the record says of files: the names of searches, who is to be trained, and each checkpoint's order."""

    searches: dict[str, str]
    unfinished: frozenset[int]
    orders: dict[str, RemovalOrder | None]


def measure_disk_usage(engine: Engine, settings: Settings, now: float) -> DiskUsage:
    """Look through a home. The record is read first, in one short transaction."""
    with read_transaction(engine) as connection:
        known = _ask(connection)
    usage = DiskUsage()
    database = settings.database_file
    apart = frozenset(map(str, (settings.data, settings.artifacts, settings.logs, *_parts(database))))
    for part in _parts(database):
        with suppress(FileNotFoundError):
            size = os.stat(part).st_size  # noqa: PTH116
            if part == database:
                usage.database = size
            else:
                usage.write_ahead_log += size
    for file in _files(settings.artifacts):
        _count_checkpoint(usage, known, settings.artifacts, file, now)
    for file in _files(settings.logs):
        usage.logs += file.bytes
        match = _LOG.fullmatch(file.name)
        if match is not None and int(match[1]) not in known.unfinished:
            usage.removable.append(RemovableFile(Path(file.path), file.bytes, file.changed_at, RemovalOrder.LEFTOVER))
    mlflow = str(settings.home / "mlflow")
    for file in _files(settings.home, apart):
        if file.path.startswith(mlflow):
            usage.mlflow += file.bytes
        else:
            usage.other += file.bytes
    return usage


def list_orphaned_checkpoints(engine: Engine, artifacts: Path, now: float) -> list[Path]:
    """Checkpoint files that no row names and no candidate can go on from: a crash came before their removal."""
    with read_transaction(engine) as connection:
        known = _ask(connection)
    usage = DiskUsage()
    for file in _files(artifacts):
        _count_checkpoint(usage, known, artifacts, file, now)
    return [file.path for file in usage.removable if file.order is RemovalOrder.LEFTOVER]


class _File(NamedTuple):
    """Text and not a `Path`: there may be a log for each of a hundred thousand candidates."""

    path: str
    name: str
    bytes: int
    changed_at: float


def _parts(database: Path | None) -> list[Path]:
    if database is None:
        return []
    return [database.with_name(database.name + share) for share in ("", "-wal", "-shm")]


def _count_checkpoint(usage: DiskUsage, known: _Known, artifacts: Path, file: _File, now: float) -> None:
    path = Path(file.path)
    usage.checkpoints[known.searches.get(path.parent.name, "unknown")] += file.bytes
    row = path.relative_to(artifacts).as_posix()
    if row in known.orders:
        order = known.orders[row]
        if order is not None:
            usage.removable.append(RemovableFile(path, file.bytes, file.changed_at, order, row))
        return
    owner = owner_of_file(file.name)
    if owner is None or now - file.changed_at <= GRACE_SECONDS:
        return
    candidate_id, is_partial = owner
    if is_partial or candidate_id not in known.unfinished:
        usage.removable.append(RemovableFile(path, file.bytes, file.changed_at, RemovalOrder.LEFTOVER))


def _ask(connection: Connection) -> _Known:
    searches = connection.execute(select(search.c.id, search.c.name)).all()
    pending = connection.execute(select(candidate.c.id).where(PENDING)).scalars()
    leased = connection.execute(select(lease.c.candidate_id)).scalars()
    rows = connection.execute(
        select(
            checkpoint.c.path,
            checkpoint.c.candidate_id,
            candidate.c.state,
            search.c.finished_at,
            has_unsettled_child().label("has_child_to_train"),
        )
        .join(candidate, candidate.c.id == checkpoint.c.candidate_id)
        .join(search, search.c.id == candidate.c.search_id)
        .order_by(
            checkpoint.c.candidate_id,
            checkpoint.c.epoch.desc(),
            checkpoint.c.batch.desc(),
            checkpoint.c.attempt.desc(),
        )
    )
    orders: dict[str, RemovalOrder | None] = {}
    last = None
    for row in rows:
        newest, last = row.candidate_id != last, row.candidate_id
        if row.state not in SETTLED:
            orders[row.path] = None
        elif not newest:
            orders[row.path] = RemovalOrder.OLDER
        else:
            orders[row.path] = None if row.finished_at is None or row.has_child_to_train else RemovalOrder.NEWEST
    return _Known({str(one.id): one.name for one in searches}, frozenset([*pending, *leased]), orders)


def _files(folder: Path | str, but: frozenset[str] = frozenset()) -> Iterator[_File]:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.path in but:
            continue
        with suppress(FileNotFoundError):  # it went between the two looks
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, but)
            elif entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                yield _File(entry.path, entry.name, status.st_size, status.st_mtime)
