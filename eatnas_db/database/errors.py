"""Translate the drivers' errors into `RecordError` with a way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError, DBAPIError

from eatnas_db.database.dialects import describe_location, is_postgresql
from eatnas_db.database.filesystem import is_disk_full
from eatnas_db.errors import RecordError, TransactionRollbackError


@contextmanager
def translated_errors(engine: Engine) -> Iterator[None]:
    """Raise the errors of a driver as `RecordError`, where a user can do something about them."""
    try:
        yield
    except DBAPIError as error:
        raised = _translated(engine, error, error.orig)
        if raised is None:
            raise
        raise raised from error
    except Exception as error:
        # The driver's own, from a connection of our own.
        raised = _translated(engine, error, error) if hasattr(error, "sqlstate") else None
        if raised is None:
            raise
        raise raised from error


def _translated(engine: Engine, error: Exception, cause: BaseException | None) -> RecordError | None:
    if is_postgresql(engine):
        return _postgres_error(cause, describe_location(engine), lost=getattr(error, "connection_invalidated", False))
    message = _sqlite_message(str(cause), describe_location(engine)) if isinstance(error, DatabaseError) else None
    return None if message is None else RecordError(message)


def _postgres_error(cause: Any, place: str, *, lost: bool) -> RecordError | None:
    """An error of PostgreSQL, by its code where it has one, else by the words of a refused connection."""
    state = getattr(cause, "sqlstate", None) or ""
    lines = str(cause).strip().splitlines() or [""]
    if state in ("40001", "40P01"):
        return TransactionRollbackError(f"another program changed the same rows of {place} at the same time; try again")
    for sign, words in _BY_STATE.items():
        if state.startswith(sign):
            return RecordError(words.format(place=place, cause=lines[0]))
    if lost or (not state and type(cause).__name__ in ("OperationalError", "ConnectionTimeout")):
        for sign, words in _BY_WORDS.items():
            if sign in str(cause):
                return RecordError(words.format(place=place, cause=lines[-1]))
        return RecordError(_UNREACHABLE.format(place=place, cause=lines[0]))
    return None


_UNREACHABLE: Final = "{place} cannot be reached ({cause}); what was not written yet is written when it can be"


_BY_STATE: Final = {
    "08": _UNREACHABLE,
    "57P": _UNREACHABLE,
    "25P03": _UNREACHABLE,
    "53300": "{place} takes no more connections ({cause}); raise its max_connections",
    "53100": "the disk of {place} is full; make room, then go on: nothing is lost",
    "25006": "{place} cannot be written: it is read-only, perhaps a standby",
    "42501": "{place} cannot be written by this user ({cause}); grant it the rights, or name another user",
    "55P03": "{place} is held by another program's open transaction; end that program, or try again",
    "28": "{place} lets this user not in ({cause}); check the user and its password",
    "3D000": "there is no such database: {place} ({cause}); create it, or correct --db",
}


_BY_WORDS: Final = {
    "password": "{place} lets this user not in ({cause}); check the user and its password",
    "no pg_hba.conf entry": "{place} lets this user not in ({cause}); check the user and its password",
    "role": "{place} lets this user not in ({cause}); check the user and its password",
    "does not exist": "there is no such database: {place} ({cause}); create it, or correct --db",
}


def _sqlite_message(cause: str, file: str) -> str | None:
    if "disk I/O" in cause and is_disk_full(Path(file)):
        cause = "disk is full"  # which SQLite tells in other words where it cannot even write its shared memory
    for sign, words in (
        ("locked", f"{file} is held by another program's open transaction; end that program, or try again"),
        ("readonly", f"{file} cannot be written: the file, its folder or the disk is read-only"),
        ("unable to open", f"{file} cannot be opened; check that its folder exists and may be written"),
        ("disk is full", f"the disk of {file} is full; make room, then go on: nothing is lost"),
        ("disk I/O", f"the disk of {file} gives errors ({cause}); check it before you go on"),
        ("not a database", f"{file} is not an SQLite database"),
        ("malformed", f"{file} is damaged ({cause}); restore a backup"),
    ):
        if sign in cause:
            return words
    return None
