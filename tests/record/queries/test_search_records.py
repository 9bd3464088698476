"""Searches and their status."""

import pytest

from eatnas_db.database.transactions import transaction
from eatnas_db.errors import NotFoundError
from eatnas_db.queries.searches import get_search, list_searches
from eatnas_db.schema.searches import search
from support.recorded_search import BIRTHS, make_record


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
def test_status_is_derived_from_the_row(tmp_path, wish, waiting, finished, status, new_url):
    made = make_record(tmp_path, new_url, births=0)
    with transaction(made.engine) as connection:
        connection.execute(search.update().values(wish=wish, waiting=waiting, finished_at=finished))
        assert get_search(connection, "small").status == status
    made.engine.dispose()
