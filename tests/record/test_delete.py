"""A search is deleted with all its rows, unless something depends on it."""

import pytest
from sqlalchemy import func, select

from eatnas_db.database.transactions import transaction
from eatnas_db.errors import ConflictError, NotFoundError
from eatnas_db.queries.events import list_events
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate, prediction
from eatnas_db.schema.metadata import metadata
from eatnas_db.searches.delete import delete_search
from eatnas_db.searches.retrain import create_reevaluation
from support.arithmetic_searches import train

SHARED = {"eatnas_architecture", "eatnas_block", "eatnas_provenance"}
"""Tables whose rows several searches may share."""


def count_rows(engine):
    with transaction(engine) as connection:
        return {
            name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in metadata.tables.items()
            if name not in SHARED
        }


@pytest.mark.parametrize("births", ["mutation", "guided"])
def test_deleted_search_leaves_nothing_but_an_event(engine, search_factory, births):
    kept = search_factory("kept")
    with transaction(engine) as connection:
        train(connection, kept)
        fingerprint = get_fingerprint(connection, 1)
    before = count_rows(engine)
    search_id = search_factory("gone", evolution__births=births, budget__candidates=16)
    with transaction(engine) as connection:
        train(connection, search_id)
        predicted = connection.execute(select(func.count()).select_from(prediction)).scalar_one()
        assert (predicted > 0) == (births == "guided")
        newest = list_events(connection, limit=1)[0].id
        deleted = delete_search(connection, "gone", 5.0)
    assert count_rows(engine) == before | {"eatnas_event": before["eatnas_event"] + 1}
    with transaction(engine) as connection:
        (event,) = list_events(connection, limit=1)
        assert event.words == f"the search gone was deleted, with {len(deleted.candidate_ids)} candidates"
        assert event.id > newest
        assert get_fingerprint(connection, 1) == fingerprint
        with pytest.raises(NotFoundError):
            get_search(connection, "gone")
    search_factory("gone")


def test_search_that_others_depend_on_is_not_deleted(engine, search_factory):
    source = search_factory("source")
    with transaction(engine) as connection:
        train(connection, source)
        create_reevaluation(connection, "source", top=1, seeds=2, now=4.0)
        with pytest.raises(ConflictError, match=r"cannot be deleted: it is the source of source\.reevaluation"):
            delete_search(connection, "source", 5.0)
        delete_search(connection, "source.reevaluation", 5.0)
        delete_search(connection, "source", 6.0)


def test_search_in_training_is_not_deleted(engine, search_factory, lease_factory):
    lease_factory(search_factory("busy"))
    with transaction(engine) as connection, pytest.raises(ConflictError, match=r"candidates are in training \(1 now\)"):
        delete_search(connection, "busy", 5.0)


def test_ids_of_a_deleted_search_are_not_given_again(engine, search_factory):
    first = search_factory("s")
    with transaction(engine) as connection:
        train(connection, first)
        deleted = delete_search(connection, "s", 5.0)
    second = search_factory("s")
    assert second > first
    with transaction(engine) as connection:
        train(connection, second)
        ids = connection.execute(select(candidate.c.id)).scalars().all()
    assert min(ids) > max(deleted.candidate_ids)
