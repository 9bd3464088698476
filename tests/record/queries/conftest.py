"""Two kinds of records to query: one search of 24 births for all tests, and small searches that are created for each
test.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.queries.searches import get_search
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retrain import create_reevaluation
from eatnas_db.searches.transfer import create_transfer
from eatnas_db.transitions import lease_next
from support.postgres import TEMPLATE
from support.recorded_search import Record, make_record
from support.scores import score_candidate

LARGE = {"name": "large", "space": "eatnas-small", "data": {"name": "FashionMNIST"}, "reevaluation": {"top": 0}}


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """Return a function that returns the URL of a new file, or of a new database with an empty record on a server."""
    if request.param == "sqlite":
        return lambda folder: f"sqlite:///{folder / 'eatnas.db'}"
    postgres = request.getfixturevalue("postgres")
    return lambda _: str(postgres.new_database(TEMPLATE))


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory, new_url: Callable[[Path], str]) -> Iterator[Record]:
    """Return a record with the finished search "small" of 24 births, one of which failed."""
    made = make_record(tmp_path_factory.mktemp("record"), new_url)
    yield made
    made.engine.dispose()


@pytest.fixture
def record_connection(record: Record) -> Iterator[Connection]:
    with read_transaction(record.engine) as connection:
        yield connection


@pytest.fixture
def train(engine: Engine) -> Callable[[int], int]:
    """Return a function that finishes a search. The fitness of a candidate is its id divided by 100."""

    def finish(search_id: int) -> int:
        with transaction(engine) as connection:  # a single transaction, because commits take most of the time
            while (leased := lease_next(connection, search_id, host_id=1, worker_id=1, now=1.0)) is not None:
                score_candidate(connection, leased, leased.token.candidate / 100)
                advance_search(connection, lock_search(connection, search_id), 3.0)
        return search_id

    return finish


@pytest.fixture
def small(search_factory: Callable[..., int], train: Callable[[int], int]) -> int:
    """Return the id of a finished search of 12 births."""
    return train(search_factory("small"))


@pytest.fixture
def large(engine: Engine, small: int, train: Callable[[int], int]) -> int:
    """Return the id of a finished search that was transferred from `small`, with three candidates re-evaluated."""
    with transaction(engine) as connection:
        create_reevaluation(connection, "small", top=3, seeds=2, now=4.0)
        reevaluation_id = get_search(connection, "small.reevaluation").id
    train(reevaluation_id)
    changes = {"evolution.population": 4, "evolution.tournament": 2, "evolution.lag": 3, "budget.candidates": 8}
    with transaction(engine) as connection:
        search_id = create_transfer(
            connection,
            "small",
            parse_spec(LARGE, changes),
            task=Task(28, 1, 10),
            data_digest="large",
            slots=2,
            now=9.0,
        )
    return train(search_id)


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """Return a connection to the record of `small` and `large`."""
    with read_transaction(engine) as connection:
        yield connection
