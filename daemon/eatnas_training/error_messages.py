"""Make one-line messages from exceptions."""

from __future__ import annotations

from pathlib import Path

from eatnas_db.errors import DataError


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of the exception's class if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unreadable(error: OSError, path: str | Path | None = None) -> DataError:
    """Return the error for an unreadable file or folder. The message names `path` if `error` contains no file name."""
    return DataError(f"{error.filename or path} cannot be read: {error.strerror or error}")


def describe_exception(error: BaseException) -> str:
    """Return the class of an exception and the first line of its message, at most 300 characters."""
    name, message = type(error).__name__, first_line(error)
    return (name if message == name else f"{name}: {message}")[:300]
