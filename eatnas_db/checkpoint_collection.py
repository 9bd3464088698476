"""Remove a host's checkpoint files that the record no longer names.

Each host cleans its own artifacts folder. If hosts do not share the folder, the host that deletes a row cannot delete
the file of another host, and the other host is not notified.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, select

from eatnas_db.checkpoint_files import CheckpointName, owner_of_file
from eatnas_db.database.batches import split_in_batches
from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.states import SETTLED, UNSETTLED
from eatnas_db.queries.disk_usage import list_files
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.unchanged_files import UnchangedFiles

ANCESTOR_ATTEMPT: Final = 0
"""The attempt number in the file names of checkpoints that a worker writes while it trains an ancestor again."""


@dataclass(frozen=True, slots=True)
class _CheckpointFile:
    """A checkpoint file. `row` is its path as the record stores it; `attempt` is None if the file is partial.

    `unchanged` is true if the file has not changed during the grace period.
    """

    path: Path
    row: str
    candidate_id: int
    attempt: int | None
    unchanged: bool


def collect_checkpoints(engine: Engine, artifacts: Path, unchanged: UnchangedFiles, now: float) -> int:
    """Delete the checkpoint files below `artifacts` that no row names and no training needs.

    Return the number of deleted files.

    `unchanged` remembers the files from one call to the next; `now` comes from a monotonic clock.
    """
    deleted = 0
    for file in _list_unneeded(engine, artifacts, unchanged, now):
        with suppress(OSError):  # the next call tries again
            file.unlink()
            deleted += 1
    return deleted


def _list_unneeded(engine: Engine, artifacts: Path, unchanged: UnchangedFiles, now: float) -> list[Path]:
    # List the files before the rows: a file that is written later is not in the list, so it is not deleted.
    files = list(_list_checkpoint_files(artifacts, unchanged, now))
    if not files:
        return []
    with read_transaction(engine) as connection:
        states, rows = _read_record(connection, sorted({file.candidate_id for file in files}))
        unneeded = [file for file in files if file.row not in rows and _has_ended(file, states)]
        if any(file.attempt == ANCESTOR_ATTEMPT for file in unneeded):
            needed = _list_ancestors_of_unsettled(connection)
            unneeded = [
                file for file in unneeded if file.attempt != ANCESTOR_ATTEMPT or file.candidate_id not in needed
            ]
    return [file.path for file in unneeded]


def _list_checkpoint_files(artifacts: Path, unchanged: UnchangedFiles, now: float) -> Iterator[_CheckpointFile]:
    files = list(list_files(artifacts))
    unchanged_paths = unchanged.observe(files, now)
    for file in files:
        owner = owner_of_file(file.name)
        if owner is not None:
            name = CheckpointName.parse(file.name)
            path = Path(file.path)
            row = path.relative_to(artifacts).as_posix()
            attempt = None if name is None else name.attempt
            yield _CheckpointFile(path, row, owner[0], attempt, file.path in unchanged_paths)


def _read_record(connection: Connection, ids: Sequence[int]) -> tuple[dict[int, str], set[str]]:
    """Return the states of candidates, and the paths of their checkpoints."""
    states: dict[int, str] = {}
    rows: set[str] = set()
    for batch in split_in_batches(ids):
        of_candidates = select(candidate.c.id, candidate.c.state).where(candidate.c.id.in_(batch))
        states |= {row.id: row.state for row in connection.execute(of_candidates)}
        paths = select(checkpoint.c.path).where(checkpoint.c.candidate_id.in_(batch))
        rows |= set(connection.execute(paths).scalars())
    return states, rows


def _has_ended(file: _CheckpointFile, states: dict[int, str]) -> bool:
    """Return whether all writes to a file have ended and no training will resume from the file."""
    state = states.get(file.candidate_id)
    if state is None or file.attempt is None:
        # The file may belong to another record that shares the folder, or a worker may be training an ancestor again.
        return file.unchanged
    return state in SETTLED


def _list_ancestors_of_unsettled(connection: Connection) -> set[int]:
    has_parent = candidate.c.parent_id.is_not(None)
    ancestors = (
        select(candidate.c.parent_id.label("id"))
        .where(candidate.c.state.in_(UNSETTLED), has_parent)
        .cte("ancestors", recursive=True)
    )
    earlier = select(candidate.c.parent_id).join(ancestors, candidate.c.id == ancestors.c.id).where(has_parent)
    return set(connection.execute(select(ancestors.union(earlier).c.id)).scalars())
