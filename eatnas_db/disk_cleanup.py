"""Keep a home within its bound on the disk."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Engine, delete, select

from eatnas_db import events
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.states import SETTLED
from eatnas_db.queries.disk_usage import RemovableFile, measure_disk_usage, select_for_removal
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.settings import Settings


def free_disk_space(engine: Engine, settings: Settings, limit: int, now: float) -> int:
    """Remove what goes first until the home takes at most `limit` bytes; how many bytes over it are left.

    For the one supervisor of a home, which alone writes checkpoints' rows: these go before their files.
    """
    usage = measure_disk_usage(engine, settings, now)
    over = usage.bytes - limit
    going = select_for_removal(usage, limit)
    gone = _without_rows(engine, [file for file in going if file.row is not None], now)
    for file in going:
        if file.row is None or file.row in gone:
            with suppress(OSError):  # it is looked at again the next time
                file.path.unlink()
                over -= file.bytes
    return max(0, over)


def _without_rows(engine: Engine, files: list[RemovableFile], now: float) -> set[str]:
    """Drop the rows of checkpoints; those that somebody wants again since they were listed stay."""
    if not files:
        return set()
    ended = select(candidate.c.id).where(candidate.c.state.in_(SETTLED))
    gone: set[str] = set()
    with transaction(engine) as connection:
        for file in files:
            row = checkpoint.c.path == file.row
            dropped = delete(checkpoint).where(row, checkpoint.c.candidate_id.in_(ended)).returning(checkpoint.c.path)
            gone.update(connection.execute(dropped).scalars())
        detail = {"files": len(gone), "bytes": sum(file.bytes for file in files if file.row in gone)}
        events.record_event(connection, now, "room_made", detail=detail)
    return gone
