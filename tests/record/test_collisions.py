"""Searches that another program is changing at the same time, or whose recorded data contradict each other."""

from dataclasses import replace

import pytest
from sqlalchemy import update

from eatnas_db.database.transactions import transaction
from eatnas_db.errors import CollisionError, TransactionRollbackError
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.locking import lock_search
from support.arithmetic_searches import train


def test_contradicting_counter_of_births_is_no_fault_of_the_database(engine, search_factory):
    search_id = search_factory()
    with transaction(engine) as connection:
        connection.execute(update(search).where(search.c.id == search_id).values(born=search.c.born - 1))
    # A `CollisionError` affects only this search, whereas a database error would stop all searches.
    with pytest.raises(CollisionError, match="already exists"), transaction(engine) as connection:
        advance_search(connection, lock_search(connection, search_id), 3.0)


def test_search_that_another_host_has_finished_is_not_finished_again(engine, search_factory):
    search_id = search_factory()
    with transaction(engine) as connection:
        train(connection, search_id)
        finished = lock_search(connection, search_id)
        assert finished.finished_at is not None
    stale = replace(finished, finished_at=None)
    with pytest.raises(TransactionRollbackError, match="has finished search 's'"), transaction(engine) as connection:
        advance_search(connection, stale, 9.0)
