"""Measure the disk usage of a home, and select the files to delete if the usage exceeds a limit."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, select

from eatnas_db.checkpoint_files import owner_of_file
from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.states import SETTLED
from eatnas_db.queries.final_models import list_needed_sources
from eatnas_db.queries.inheritance import has_unsettled_child
from eatnas_db.schema.candidates import PENDING, WAITING, candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import checkpoint, lease
from eatnas_db.settings import Settings
from eatnas_db.unchanged_files import FoundFile, UnchangedFiles

UNKNOWN_SEARCH: Final = "unknown"
_LOG: Final = re.compile(r"candidate-(\d+)\.log")


class RemovalOrder(IntEnum):
    """The order in which files are deleted. A checkpoint from which a training may resume is never deleted."""

    LEFTOVER = 1
    """Checkpoint files without a row, and logs of candidates that have ended."""
    OLDER = 2
    """Checkpoints of candidates that have ended, except the newest checkpoint of each candidate."""
    CACHE = 3
    """Caches of decoded image folders, which the next worker would decode again."""
    NEWEST = 4
    """The newest checkpoints in finished searches. If a candidate's weights are needed again, the candidate is trained
    again.
    """


@dataclass(frozen=True, slots=True)
class RemovableFile:
    """A file that may be deleted.

    `row` is the primary key of its row in the record, the candidate and the path; None if the record has no row for it.
    """

    path: Path
    bytes: int
    changed_at: float
    order: RemovalOrder
    row: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """The bytes that a home uses, without data sets.

    `checkpoints` maps names of searches to bytes, the largest first. Checkpoints of searches that are not in the record
    are counted as `UNKNOWN_SEARCH`.
    """

    database: int = 0
    write_ahead_log: int = 0
    checkpoints: Mapping[str, int] = field(default_factory=dict)
    logs: int = 0
    mlflow: int = 0
    cache: int = 0
    other: int = 0
    removable: Sequence[RemovableFile] = ()

    @property
    def bytes(self) -> int:
        """The total number of bytes."""
        checkpoints = sum(self.checkpoints.values())
        files = self.logs + self.mlflow + self.cache + self.other
        return self.database + self.write_ahead_log + checkpoints + files


@dataclass(frozen=True, slots=True)
class _RecordedFiles:
    """What the record knows about files.

    `searches` maps ids, as text, to names; `unfinished` holds the ids of candidates that are pending or in training;
    `orders` maps paths of checkpoints to their candidate and their removal order, or to None if they must stay.
    """

    searches: dict[str, str]
    unfinished: frozenset[int]
    orders: dict[str, tuple[int, RemovalOrder] | None]


def measure_disk_usage(
    engine: Engine, settings: Settings, unchanged: UnchangedFiles | None = None, now: float = 0.0
) -> DiskUsage:
    """Read the record in one short transaction, then measure the files of the home.

    `unchanged` remembers the files from one call to the next, and `now` comes from a monotonic clock. With `unchanged`,
    files that may still be written are not removable. Callers that remove nothing omit `unchanged`.
    """
    with read_transaction(engine) as connection:
        recorded = _read_recorded_files(connection)
    checkpoints: Counter[str] = Counter()
    removable: list[RemovableFile] = []
    artifacts, cached = list(list_files(settings.artifacts)), list(list_files(settings.cache))
    found = [*artifacts, *cached]
    settled = frozenset(file.path for file in found) if unchanged is None else unchanged.observe(found, now)
    for file in artifacts:
        checkpoints[recorded.searches.get(Path(file.path).parent.name, UNKNOWN_SEARCH)] += file.bytes
        removable += _removable_checkpoint(recorded, settings.artifacts, file, settled=file.path in settled)
    logs = 0
    for file in list_files(settings.logs):
        logs += file.bytes
        removable += _removable_log(recorded, file)
    removable += filter(None, (_removable_cache(file, settled=file.path in settled) for file in cached))
    database_files = _database_files(settings.database_file)
    database_sizes = [_size_of(file) for file in database_files]
    measured = frozenset(map(str, (settings.data, settings.artifacts, settings.logs, settings.cache, *database_files)))
    mlflow = other = 0
    mlflow_prefix = str(settings.home / "mlflow")
    for file in list_files(settings.home, excluded=measured):
        if file.path.startswith(mlflow_prefix):
            mlflow += file.bytes
        else:
            other += file.bytes
    return DiskUsage(
        database=sum(database_sizes[:1]),
        write_ahead_log=sum(database_sizes[1:]),
        checkpoints=dict(checkpoints.most_common()),
        logs=logs,
        mlflow=mlflow,
        cache=sum(file.bytes for file in cached),
        other=other,
        removable=removable,
    )


def select_for_removal(usage: DiskUsage, limit: int) -> list[RemovableFile]:
    """Return the files to delete so that the home uses at most `limit` bytes, or all files if that is not possible.

    The files are sorted by `RemovalOrder`, and then by age, the oldest first.
    """
    selected: list[RemovableFile] = []
    excess = usage.bytes - limit
    for file in sorted(usage.removable, key=lambda file: (file.order, file.changed_at)):
        if excess <= 0:
            break
        selected.append(file)
        excess -= file.bytes
    return selected


def _removable_checkpoint(
    recorded: _RecordedFiles, artifacts: Path, file: FoundFile, *, settled: bool
) -> list[RemovableFile]:
    """Return a list with the file, or an empty list if the file must stay.

    `settled` is true if the file has not changed during the grace period.
    """
    path = Path(file.path)
    row = path.relative_to(artifacts).as_posix()
    if row in recorded.orders:
        found = recorded.orders[row]
        if found is None:
            return []
        candidate_id, order = found
        return [RemovableFile(path, file.bytes, file.changed_at, order, (candidate_id, row))]
    owner = owner_of_file(file.name)
    if owner is None or not settled:
        return []
    candidate_id, is_partial = owner
    if candidate_id in recorded.unfinished and not is_partial:
        return []
    return [RemovableFile(path, file.bytes, file.changed_at, RemovalOrder.LEFTOVER)]


def _removable_log(recorded: _RecordedFiles, file: FoundFile) -> list[RemovableFile]:
    match = _LOG.fullmatch(file.name)
    if match is None or int(match[1]) in recorded.unfinished:
        return []
    return [RemovableFile(Path(file.path), file.bytes, file.changed_at, RemovalOrder.LEFTOVER)]


def _removable_cache(file: FoundFile, *, settled: bool) -> RemovableFile | None:
    suffix = Path(file.name).suffix
    is_written = suffix == ".partial" and not settled
    if suffix == ".lock" or is_written:
        return None
    return RemovableFile(Path(file.path), file.bytes, file.changed_at, RemovalOrder.CACHE)


def _read_recorded_files(connection: Connection) -> _RecordedFiles:
    searches = connection.execute(select(search.c.id, search.c.name)).all()
    pending = connection.execute(select(candidate.c.id).where(PENDING)).scalars()
    waiting = connection.execute(select(candidate.c.id).where(WAITING)).scalars()
    leased = connection.execute(select(lease.c.candidate_id)).scalars()
    return _RecordedFiles(
        searches={str(row.id): row.name for row in searches},
        unfinished=frozenset([*pending, *waiting, *leased]),
        orders=_read_removal_orders(connection),
    )


def _read_removal_orders(connection: Connection) -> dict[str, tuple[int, RemovalOrder] | None]:
    """Return the candidate and the removal order of every checkpoint, by its path; None for a checkpoint that must
    stay.
    """
    query = (
        select(
            checkpoint.c.path,
            checkpoint.c.candidate_id,
            candidate.c.state,
            search.c.finished_at,
            has_unsettled_child().label("has_unsettled_child"),
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
    needed = list_needed_sources(connection)
    orders: dict[str, tuple[int, RemovalOrder] | None] = {}
    previous_id = None
    for row in connection.execute(query):
        is_newest = row.candidate_id != previous_id
        previous_id = row.candidate_id
        if row.state not in SETTLED:
            orders[row.path] = None
        elif not is_newest:
            orders[row.path] = row.candidate_id, RemovalOrder.OLDER
        elif row.finished_at is None or row.has_unsettled_child or row.candidate_id in needed:
            orders[row.path] = None
        else:
            orders[row.path] = row.candidate_id, RemovalOrder.NEWEST
    return orders


def _database_files(database: Path | None) -> list[Path]:
    """Return the SQLite file and the files of its write-ahead log; a database on a server has no such files."""
    if database is None:
        return []
    return [database, *(database.with_name(database.name + suffix) for suffix in ("-wal", "-shm"))]


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def list_files(folder: Path | str, excluded: frozenset[str] = frozenset()) -> Iterator[FoundFile]:
    """Yield the files below a folder, except the excluded files and folders; do not follow links."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.path in excluded:
            continue
        with suppress(FileNotFoundError):  # the entry may be deleted in the meantime
            if entry.is_dir(follow_symlinks=False):
                yield from list_files(entry.path, excluded)
            elif entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                yield FoundFile(entry.path, entry.name, status.st_size, status.st_mtime)
