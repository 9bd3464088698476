"""Create a home with one small search, supervise the search, and read its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Row, Select

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.searches import get_search
from eatnas_db.searches.create import create_search
from eatnas_db.settings import Settings, load_settings
from support.empty_records import create_empty_record
from support.shared_statements import share_statements
from support.simulated_worker import SIMULATED_WORKER

FAST_WORKER = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.005", "--scramble")
SPEC: dict[str, Any] = {
    "name": "s",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": 3},
    "evolution": {"population": 6, "tournament": 3, "lag": 5},
    "budget": {"candidates": 24},
    "reevaluation": {"top": 0},
}


def create_record(url: str, seed: int = 1, **overrides: Any) -> Engine:
    """Create the tables and the search. `overrides` contains values of the spec, by keys with `__` instead of a dot."""
    engine = create_empty_record(url)
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    with transaction(engine) as connection:
        spec = parse_spec(SPEC, {"seed": seed, **changes})
        create_search(connection, spec, task=Task(8, 1, 10), data_digest="arithmetic", slots=2, now=0.0)
    return engine


def create_home(folder: Path, seed: int = 1, **overrides: Any) -> Settings:
    """Create a home folder with an SQLite database that holds the search."""
    settings = load_settings({}, str(folder))
    folder.mkdir()
    create_record(settings.database_url, seed, **overrides)
    return settings


def supervise_search(
    settings: Settings,
    slots: int = 2,
    program: Sequence[str] = FAST_WORKER,
    on_tick: Callable[[Supervisor], None] = lambda _: None,
    busy_seconds: float = 30,
    only: str | None = "s",
    **options: Any,
) -> str:
    """Supervise the search until it ends or the supervisor is stopped, and return its fingerprint."""
    engine = open_record(settings.database_url, busy_seconds=busy_seconds)
    share_statements(engine)
    launcher = Launcher(settings.logs, program)
    Supervisor(engine, settings, launcher, slots=slots, host_name="here", only=only, **options).run(on_tick)
    return fingerprint_of(engine)


def fingerprint_of(engine: Engine, name: str = "s") -> str:
    """Return the fingerprint of a search."""
    with read_transaction(engine) as connection:
        return get_fingerprint(connection, get_search(connection, name).id).sha256


def fetch_rows(settings: Settings, query: Select[Any]) -> Sequence[Row[Any]]:
    """Return the rows of a query."""
    with read_transaction(open_record(settings.database_url)) as connection:
        return connection.execute(query).all()
