"""Remove files to keep a home's disk usage under its limit.

`queries.disk_usage` measures the usage and selects the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import Connection, Engine, delete, exists

from eatnas_db import events
from eatnas_db.database.transactions import run_transaction
from eatnas_db.domain.states import SETTLED
from eatnas_db.queries.disk_usage import RemovableFile, measure_disk_usage, select_for_removal
from eatnas_db.queries.final_models import list_needed_sources
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.settings import Settings
from eatnas_db.unchanged_files import UnchangedFiles


def free_disk_space(
    engine: Engine, settings: Settings, limit: int, unchanged: UnchangedFiles, *, monotonic: float, wall: float
) -> int:
    """Remove files until the home uses at most `limit` bytes. Return the number of bytes that still exceed the limit.

    Only the supervisor of the home may call this function: no other program inserts rows of checkpoints, so no row is
    added during the call. The row of a checkpoint is deleted before its file. `unchanged` remembers the files from one
    call to the next.
    """
    usage = measure_disk_usage(engine, settings, unchanged, monotonic)
    excess = usage.bytes - limit
    files = select_for_removal(usage, limit)
    deleted = _delete_rows(engine, [file for file in files if file.row is not None], wall)
    for file in files:
        if file.row is None or file.row in deleted:
            with suppress(OSError):  # the next call tries again
                file.path.unlink()
                excess -= file.bytes
    return max(0, excess)


def _delete_rows(engine: Engine, files: Sequence[RemovableFile], now: float) -> set[tuple[int, str]]:
    """Delete the rows of checkpoints by their primary keys, and return these keys.

    Keep the rows of candidates that have become unsettled or whose checkpoints a training needs.
    """
    if not files:
        return set()
    keys = [file.row for file in files if file.row is not None]

    def write(connection: Connection) -> set[tuple[int, str]]:
        deleted: set[tuple[int, str]] = set()
        needed = list_needed_sources(connection)
        for candidate_id, path in keys:
            is_settled = exists().where(candidate.c.id == candidate_id, candidate.c.state.in_(SETTLED))
            row = checkpoint.c.candidate_id == candidate_id, checkpoint.c.path == path
            if candidate_id not in needed and connection.execute(delete(checkpoint).where(*row, is_settled)).rowcount:
                deleted.add((candidate_id, path))
        detail = {"files": len(deleted), "bytes": sum(file.bytes for file in files if file.row in deleted)}
        events.record_event(connection, now, "room_made", detail=detail)
        return deleted

    return run_transaction(engine, write)
