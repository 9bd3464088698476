"""Read the whole content of a user's file, which may be a pipe, a device, or a file that another program is still
writing.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from eatnas_db.errors import DataError, describe_os_error

_MEGABYTE: Final = 1_000_000


def read_input(file: Path, *, most_megabytes: int) -> bytes:
    """Return the content of a file or a pipe, which must not change while it is read.

    Raises `DataError`, which names the file.
    """
    try:
        with open(file, "rb", opener=_open_at_once) as opened:
            before = os.fstat(opened.fileno())
            _require_readable(file, before)
            os.set_blocking(opened.fileno(), True)
            content = opened.read(most_megabytes * _MEGABYTE + 1)
            after = os.fstat(opened.fileno())
    except OSError as error:
        error.filename = str(file)  # an error of `read` does not name the file
        raise DataError(describe_os_error(error)) from None
    if len(content) > most_megabytes * _MEGABYTE:
        raise DataError(f"{file} has more than {most_megabytes} MB; check that it is the right file")
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DataError(f"{file} changed while it was being read; wait until the file is complete, and try again")
    return content


def _open_at_once(file: str, flags: int) -> int:
    """Open a file without waiting: opening a pipe would otherwise wait for a program that writes to it."""
    return os.open(file, flags | os.O_NONBLOCK)


def _require_readable(file: Path, found: os.stat_result) -> None:
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
        raise DataError(f"{file} is a device or a socket; name a file")
