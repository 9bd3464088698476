"""Advance a search: settle the births that have ended, breed the next births, and finish the search.

Each step reads the recorded state and does only the missing work, so a crash between two steps loses nothing.
"""

from __future__ import annotations

from sqlalchemy import Connection

from eatnas_db.queries.searches import SearchRecord
from eatnas_db.searches.advance_state import AdvanceState
from eatnas_db.searches.breeding import breed
from eatnas_db.searches.failure_streak import pause_after_equal_failures
from eatnas_db.searches.finishing import finish
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.prepared_births import LeftToDaemon, PreparedBirths
from eatnas_db.searches.rung_decisions import decide_rungs
from eatnas_db.searches.settling import settle


def advance_search(
    connection: Connection, search: SearchRecord, now: float, prepared: PreparedBirths | None = None
) -> bool:
    """Settle, breed and finish or pause a search that was read in this transaction.

    Return whether the search needs no training now. Births that need the model are taken from `prepared` or, if
    `prepared` is None, decided in this transaction.

    On a server, the transaction must have locked the search (`database.locks.lock_searches`). Raises `CollisionError`
    or `TransactionRollbackError` if another program has advanced the search since it was read.
    """
    state = AdvanceState.of(search)
    decide_rungs(connection, state, now)
    settle(connection, state, now)
    breed(connection, state, now, prepared)
    if finish(connection, state, now):
        return True
    return state.settled_failure and pause_after_equal_failures(connection, state, now)


def settle_births(connection: Connection, search_id: int, now: float) -> int:
    """Settle every birth that has ended, in the order of births. Return the number of new steps."""
    return settle(connection, AdvanceState.of(lock_search(connection, search_id)), now)


def breed_births(connection: Connection, search_id: int, now: float) -> int:
    """Insert every birth that can be decided without the model, and return their number."""
    return breed(connection, AdvanceState.of(lock_search(connection, search_id)), now, LeftToDaemon())
