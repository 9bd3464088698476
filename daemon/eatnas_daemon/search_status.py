"""The status of a search. It depends on whether a daemon is working on the database."""

from __future__ import annotations

from sqlalchemy import Connection

from eatnas_daemon.daemon_lock import find_record_user
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.locks import list_connected_hosts
from eatnas_db.queries.searches import SearchRecord, SearchSummary
from eatnas_db.settings import Settings


def is_supervised(settings: Settings, connection: Connection) -> bool:
    """Return whether a daemon or the command `run` is working on this database. On a server, this process may be on any
    host.
    """
    if is_postgresql(connection):
        return bool(list_connected_hosts(connection))
    user = find_record_user(settings.lock_file)
    return user is not None and user.is_daemon


def current_status(row: SearchRecord | SearchSummary, supervised: bool) -> str:
    """Return the status of a search. A search that should run is waiting if no daemon is working on the database."""
    should_run = row.status.startswith(("running", "waiting"))
    return "waiting: no daemon" if should_run and not supervised else row.status


def describe_status(row: SearchRecord, supervised: bool) -> str:
    """Return the status of a search, with the reason if it failed or did not use its whole candidate budget."""
    status = current_status(row, supervised)
    early = status == "finished" and row.settled < row.budget_candidates and row.ended is not None
    early = early or status == "failed"
    return f"{status}: {row.ended}" if early else status
