from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.leases import LeasedCandidate
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.searches.create import create_search
from eatnas_db.transitions import lease_next
from support.empty_records import create_empty_record
from support.scores import score_candidate
from support.shared_statements import share_statements

TASK = Task(8, 1, 10)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database. A test that uses this fixture, directly or through `engine`, runs once on SQLite
    and once on PostgreSQL.
    """
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'eatnas.db'}"
    kind = "postgres_record_url" if "engine" in request.fixturenames else "postgres_url"
    return str(request.getfixturevalue(kind))


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Return an engine for an empty record with a host, a device and a worker."""
    if url.startswith("sqlite"):
        create_empty_record(url).dispose()
    engine = open_record(url)
    share_statements(engine)
    with transaction(engine) as connection:
        connection.execute(insert(host).values(id=1, name="here", seen_at=0))
        connection.execute(insert(device).values(id=1, host_id=1, uuid="cpu:here", kind="cpu", name="processor"))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=0))
    yield engine
    engine.dispose()


@pytest.fixture
def search_factory(engine: Engine) -> Callable[..., int]:
    def make(name: str = "s", slots: int = 2, **overrides: object) -> int:
        tree = {"name": name, "seed": 7, "space": "eatnas-tiny", "data": {"name": "digits"}}
        paths = {
            "evolution.population": 4,
            "evolution.tournament": 2,
            "evolution.lag": 3,
            "budget.candidates": 12,
            "reevaluation.top": 0,
            **{key.replace("__", "."): value for key, value in overrides.items()},
        }
        with transaction(engine) as connection:
            return create_search(
                connection, parse_spec(tree, paths), task=TASK, data_digest="data", slots=slots, now=0.0
            )

    return make


@pytest.fixture
def lease_factory(engine: Engine) -> Callable[..., LeasedCandidate | None]:
    def lease(search_id: int, now: float = 1.0) -> LeasedCandidate | None:
        with transaction(engine) as connection:
            return lease_next(connection, search_id, host_id=1, worker_id=1, now=now)

    return lease


@pytest.fixture
def score_factory(engine: Engine) -> Callable[[LeasedCandidate, float], None]:
    def score(leased: LeasedCandidate, fitness: float) -> None:
        with transaction(engine) as connection:
            score_candidate(connection, leased, fitness)

    return score
