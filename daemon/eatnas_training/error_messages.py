"""One-line messages from exceptions."""

from __future__ import annotations

from eatnas_db.errors import DataError


def first_line(error: BaseException) -> str:
    """Return the first line of the message, or the name of the class if there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unreadable(error: OSError) -> DataError:
    """Return the error for a file or folder that the system cannot read."""
    return DataError(f"{error.filename} cannot be read: {error.strerror}")
