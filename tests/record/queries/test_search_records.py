"""Searches and their status."""

import pytest

from eatnas_db.errors import NotFoundError
from eatnas_db.queries.searches import get_search, list_searches
from eatnas_db.schema.searches import search
from support.recorded_search import BIRTHS


def test_a_search_is_found_by_name(record, record_connection):
    found = get_search(record_connection, "small")
    assert (found.id, found.status, found.seed, found.born) == (record.search_id, "finished", 5, BIRTHS)
    assert list_searches(record_connection) == (found,)
    with pytest.raises(NotFoundError, match="no search named 'smal'; the newest searches are: small"):
        get_search(record_connection, "smal")


@pytest.mark.parametrize(
    ("wish", "waiting", "finished", "status"),
    [
        ("run", None, None, "running"),
        ("run", "no data", None, "waiting: no data"),
        ("paused", "no data", None, "paused"),
        ("paused", None, 1.0, "finished"),
        ("cancelled", None, 1.0, "cancelled"),
    ],
)
def test_status_is_derived_from_the_row(record, wish, waiting, finished, status):
    with record.engine.connect() as connection:  # without a commit, because other tests read this record
        connection.execute(search.update().values(wish=wish, waiting=waiting, finished_at=finished))
        assert get_search(connection, "small").status == status
