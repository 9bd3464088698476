"""Translate the errors of the database drivers into `RecordError`s that tell a user what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError, DBAPIError

from eatnas_db.database.dialects import describe_location, is_postgresql
from eatnas_db.database.filesystem import is_disk_full
from eatnas_db.errors import RecordError, TransactionRollbackError, UnstorableTextError
from eatnas_db.text_encoding import escape_unstorable
from eatnas_db.urls import hide_passwords


@contextmanager
def translated_errors(engine: Engine) -> Iterator[None]:
    """Raise `RecordError` in place of a driver's error that a user can fix; other errors pass through."""
    try:
        yield
    except Exception as error:
        translated = translate_error(engine, error)
        if translated is None:
            raise
        raise translated from error


def translate_error(engine: Engine, error: Exception) -> RecordError | None:
    """Return the `RecordError` for a driver's error that a user can fix or that may be temporary, otherwise None."""
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        text = escape_unstorable(error.object)[:MAX_SHOWN_CHARACTERS]
        return UnstorableTextError(f"the text {text} has characters that no database can store; write it in UTF-8")
    if isinstance(error, DBAPIError):
        return _translate(engine, error, error.orig)
    # An error of psycopg itself comes from a connection that SQLAlchemy does not manage.
    return _translate(engine, error, error) if hasattr(error, "sqlstate") else None


def _translate(engine: Engine, error: Exception, cause: BaseException | None) -> RecordError | None:
    if is_postgresql(engine):
        is_connection_lost = getattr(error, "connection_invalidated", False)
        return _translate_postgresql(cause, describe_location(engine), is_connection_lost=is_connection_lost)
    if not isinstance(error, DatabaseError):
        return None
    message = _sqlite_message(str(cause), describe_location(engine))
    return None if message is None else RecordError(message)


def _translate_postgresql(cause: BaseException | None, place: str, *, is_connection_lost: bool) -> RecordError | None:
    """Translate an error by its SQLSTATE, or by its text if the server refused the connection and sent no SQLSTATE."""
    state = getattr(cause, "sqlstate", None) or ""
    lines = str(cause).strip().splitlines() or [""]
    if state in _ROLLBACK_STATES:
        return TransactionRollbackError(
            f"the transaction on {place} was rolled back because another program changed the same rows; try again"
        )
    if state == "22001":
        return UnstorableTextError(f"a string is too long for {place} ({lines[0]}); shorten it; nothing was changed")
    for prefix, message in _MESSAGES_BY_STATE.items():
        if state.startswith(prefix):
            return RecordError(message.format(place=place, cause=lines[0]))
    if not state and "NUL (0x00)" in str(cause):
        return UnstorableTextError(_UNSTORABLE_TEXT.format(place=place, cause=lines[0]))
    if not state and any(phrase in str(cause) for phrase in _INVALID_OPTION):
        return RecordError(f"the URL of {place} has an invalid option ({hide_passwords(lines[0])}); correct --db")
    if is_connection_lost or (not state and type(cause).__name__ in ("OperationalError", "ConnectionTimeout")):
        for phrase, message in _MESSAGES_BY_TEXT.items():
            if phrase in str(cause):
                return RecordError(message.format(place=place, cause=lines[-1]))
        return RecordError(_CONNECTION_FAILED.format(place=place, cause=lines[0]))
    return None


_INVALID_OPTION: Final = ("invalid connection option", "bad value for", "invalid dsn", "invalid integer value")
"""Phrases in the errors that the driver raises for invalid options when it connects."""

_UNSTORABLE_TEXT: Final = (
    "{place} cannot store a string ({cause}); write it in UTF-8 and without NUL; nothing was changed"
)
MAX_SHOWN_CHARACTERS: Final = 80

_ROLLBACK_STATES: Final = ("40001", "40P01")
"""The SQLSTATEs of a serialization failure and of a deadlock."""

_CONNECTION_FAILED: Final = (
    "the connection to {place} failed ({cause}); check that the server runs and that this host can reach it"
)
_REJECTED: Final = "{place} rejects this user ({cause}); check the user name and password"
_INCOMPLETE: Final = "the record in {place} is not complete ({cause}); restore a backup with `eatnas-db db restore`"
_DATABASE_MISSING: Final = "{place} does not exist ({cause}); create the database, or correct --db"

_MESSAGES_BY_STATE: Final = {
    "08": _CONNECTION_FAILED,
    "57P": _CONNECTION_FAILED,
    "25P03": _CONNECTION_FAILED,
    "53300": "{place} accepts no more connections ({cause}); close other clients, or raise its max_connections",
    "53100": "the disk of {place} is full; free some space, then try again: no data is lost",
    "25006": "{place} is read-only ({cause}); if it is a standby, connect to the primary server",
    "42501": "{place} denies access to this user ({cause}); grant the privileges, or connect as another user",
    "57014": "{place} cancelled a statement ({cause}); if this happens again, raise the role's statement_timeout",
    "55P03": "{place} is locked by another program's open transaction; end that program, or try again",
    "28": _REJECTED,
    "42P01": _INCOMPLETE,
    "42703": _INCOMPLETE,
    "3D000": _DATABASE_MISSING,
    "22021": _UNSTORABLE_TEXT,
    "22P05": _UNSTORABLE_TEXT,
}
"""Maps an SQLSTATE, or a prefix of it, to the message for the user."""

_MESSAGES_BY_TEXT: Final = {
    "password": _REJECTED,
    "no pg_hba.conf entry": _REJECTED,
    "role": _REJECTED,
    "does not exist": _DATABASE_MISSING,
}


def _sqlite_message(cause: str, file: str) -> str | None:
    if "disk I/O" in cause and is_disk_full(Path(file)):
        # If the disk has no room for SQLite's shared memory, SQLite reports an I/O error.
        cause = "disk is full"
    for phrase, message in _SQLITE_MESSAGES.items():
        if phrase in cause:
            return message.format(file=file, place=file, cause=cause)
    return None


READ_ONLY_FILE: Final = (
    "{file} cannot be written because the file, its folder or its disk is read-only; "
    "change the permissions, or choose another --home"
)
_SQLITE_MESSAGES: Final = {
    "locked": "{file} is locked by another program's open transaction; end that program, or try again",
    "readonly": READ_ONLY_FILE,
    "unable to open": "{file} cannot be opened; check that its folder exists and is writable",
    "disk is full": "the disk of {file} is full; free some space, then try again: no data is lost",
    "disk I/O": "the disk of {file} reports errors ({cause}); check the disk before you continue",
    "not a database": "{file} is not an SQLite database; correct --db or --home, or restore a backup",
    "Could not decode": "{file} holds a string that is not UTF-8 ({cause}), which another program has written; "
    "restore a backup with `eatnas-db db restore`",
    "no such table": _INCOMPLETE,
    "no such column": _INCOMPLETE,
    "malformed": "{file} is damaged ({cause}); restore a backup with `eatnas-db db restore`",
}
"""Maps a phrase in SQLite's error to the message for the user."""
