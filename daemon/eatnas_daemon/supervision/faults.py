"""Attribute an unexpected exception to a search or a worker, so that all other searches and workers continue."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from eatnas_daemon.workers.slots import Slot
from eatnas_db.database.errors import translate_error
from eatnas_db.errors import EatnasError, RecordError, StaleLeaseError, UnstorableTextError


class SearchError(Exception):
    """The transaction failed at one search. Without this search, it may succeed."""

    def __init__(self, search_id: int, error: Exception) -> None:
        super().__init__(describe_fault(error))
        self.search_id = search_id


class WorkerError(Exception):
    """The transaction failed at the reports of one worker. Without these reports, it may succeed."""

    def __init__(self, slot: Slot, error: Exception) -> None:
        super().__init__(describe_fault(error))
        self.slot = slot


@contextmanager
def faults_of_search(connection: Connection, search_id: int) -> Iterator[None]:
    """Raise `SearchError` for an exception in this block, unless it concerns the database as a whole."""
    try:
        yield
    except Exception as error:
        if _concerns_database(connection, error):
            raise
        raise SearchError(search_id, error) from error


@contextmanager
def faults_of_worker(connection: Connection, slot: Slot) -> Iterator[None]:
    """Raise `WorkerError` for an exception in this block, unless it concerns the database or a stale lease."""
    try:
        yield
    except StaleLeaseError:
        raise
    except Exception as error:
        if _concerns_database(connection, error):
            raise
        raise WorkerError(slot, error) from error


def describe_fault(error: BaseException) -> str:
    """Return an exception as one line: the first line of its text, after the name of its class unless the class is our
    own.
    """
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).strip().splitlines()
    if not lines:
        return type(cause).__name__
    message = lines[0].strip()
    return message if isinstance(cause, EatnasError) else f"{type(cause).__name__}: {message}"


def format_fault(error: BaseException) -> str:
    """Return the traceback of an exception, for the log."""
    return "".join(traceback.format_exception(error)).rstrip()


def _concerns_database(connection: Connection, error: Exception) -> bool:
    translated = error if isinstance(error, RecordError) else translate_error(connection.engine, error)
    return translated is not None and not isinstance(translated, UnstorableTextError)
