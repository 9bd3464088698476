"""Replace files atomically: after a crash, a path holds the whole old file or the whole new file."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

_RANDOM_BYTES: Final = 4
_TEMPORARY_NAME: Final = re.compile(rf"\.(.+)\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}", re.DOTALL)


def final_name(name: str) -> str | None:
    """Return the name of the file that a temporary file of `atomic_write` replaces; None for any other name."""
    match = _TEMPORARY_NAME.fullmatch(name)
    return None if match is None else match[1]


@contextmanager
def atomic_write(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a temporary file; when the block ends without an error, sync the file to disk and rename it to `path`.

    The temporary file is in the folder of `path`; its path is `file.name`. The umask applies to `mode`. If the block
    raises an error, `path` stays unchanged and the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_RANDOM_BYTES)}")
    try:
        with open(temporary, "xb", opener=partial(os.open, mode=mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def sync_and_replace(source: Path, target: Path) -> None:
    """Sync a complete file to disk, then rename it to `target`, which must be on the same file system."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
