"""Check the checkpoint files against the rows that name them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, select

from eatnas_db.database.dialects import on_server
from eatnas_db.database.transactions import reading
from eatnas_db.integrity.violations import Violation, summarize
from eatnas_db.schema.trainings import checkpoint

_CHUNK_BYTES: Final = 1 << 20
_DIGEST_BYTES: Final = 32
"""A checkpoint file ends with the SHA-256 of everything before it."""


def check_checkpoint_files(engine: Engine, artifacts: Path, *, whole_files: bool) -> list[Violation]:
    """Check that every file exists with the recorded size and, with `whole_files`, the recorded content."""
    columns = (checkpoint.c.path, checkpoint.c.bytes, checkpoint.c.digest)
    with reading(engine) as connection:
        rows = connection.execute(select(*columns).order_by(*columns)).all()
    missing, different = [], []
    for row in rows:
        file = artifacts / row.path
        try:
            if file.stat().st_size != row.bytes or (whole_files and not _has_content(file, row.digest)):
                different.append(row.path)
        except OSError:
            if not on_server(engine):  # otherwise the file may be in another host's home
                missing.append(row.path)
    if missing or different:
        # The daemon may have removed some of them together with their rows in the meantime.
        with reading(engine) as connection:
            kept = set(connection.execute(select(checkpoint.c.path)).scalars())
        missing, different = ([path for path in paths if path in kept] for paths in (missing, different))
    return summarize("a checkpoint's file is there", "files", missing) + summarize(
        "a checkpoint's file has the size and the content that were recorded", "files", different
    )


def _has_content(file: Path, recorded_digest: str) -> bool:
    """Return whether the file's content has the recorded digest and the file ends with it."""
    left = file.stat().st_size - _DIGEST_BYTES
    sha256 = hashlib.sha256()
    with file.open("rb") as stream:
        while left > 0 and (part := stream.read(min(left, _CHUNK_BYTES))):
            sha256.update(part)
            left -= len(part)
        return sha256.hexdigest() == recorded_digest and stream.read() == sha256.digest()
