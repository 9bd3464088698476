"""A home with one search, and a supervisor for it over the worker that does arithmetic instead of torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.searches import get_search
from eatnas_db.searches.create import create_search
from eatnas_db.settings import Settings, load_settings
from eatnas_migrations import commands
from support.simulated_worker import SIMULATED_WORKER

FAST = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.005", "--scramble")
TREE = {
    "name": "s",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": 3},
    "evolution": {"population": 6, "tournament": 3, "lag": 5},
    "budget": {"candidates": 24},
    "reevaluation": {"top": 0},
}


def fingerprint(engine: Engine) -> str:
    with read_transaction(engine) as connection:
        return get_fingerprint(connection, get_search(connection, "s").id).sha256


@pytest.fixture(scope="session")
def fast() -> tuple[str, ...]:
    return FAST


@pytest.fixture(scope="session")
def home() -> Callable[..., Settings]:
    def make(folder: Path, seed: int = 1, **overrides: Any) -> Settings:
        settings = load_settings({}, str(folder))
        folder.mkdir()
        engine = create_engine_for(settings.database_url)
        commands.upgrade(engine)
        changes = {key.replace("__", "."): value for key, value in overrides.items()}
        with transaction(engine) as connection:
            spec = parse_spec(TREE, {"seed": seed, **changes})
            create_search(connection, spec, task=Task(8, 1, 10), data_digest="arithmetic", slots=2, now=0.0)
        return settings

    return make


@pytest.fixture(scope="session")
def supervise() -> Callable[..., str]:
    """Supervise until the search ends; its fingerprint."""

    def run(
        settings: Settings,
        slots: int = 2,
        program: tuple[str, ...] = FAST,
        on_tick: Callable[[Supervisor], None] = lambda _: None,
        busy_seconds: float = 30,
        only: str = "s",
        **more: Any,
    ) -> str:
        engine = open_record(settings.database_url, busy_seconds=busy_seconds)
        launcher = Launcher(settings.logs, program)
        supervisor = Supervisor(engine, settings, launcher, slots=slots, host_name="here", only=only, **more)
        supervisor.run(on_tick)
        return fingerprint(engine)

    return run
