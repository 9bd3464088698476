"""The search that the storm attacks, and its fingerprint without faults."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from eatnas_daemon.search_creation import create_search_from_spec
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
from storm.served_daemon import SLOTS
from storm.workloads import Workload

SPEC: dict[str, Any] = {
    "name": "s",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "evolution": {"population": 6, "tournament": 3, "lag": 5},
    "reevaluation": {"top": 0},
}
RUNGS: dict[str, Any] = {"rungs": [1, 2], "keep": 0.5}


@dataclass(frozen=True)
class StormSearch:
    """The kind of a search: its workload, its rungs and its lanes."""

    workload: Workload
    rungs: str | None = None
    """The schedule of the rungs, or None for a search without rungs."""
    lanes: int = 1
    """The number of trainings that a worker process runs at the same time."""

    def new_home(self, folder: Path, seed: int) -> Settings:
        """Create a home with the search."""
        folder.mkdir(parents=True)
        settings = load_settings({}, str(folder))
        engine = create_engine_for(settings.database_url)
        commands.upgrade(engine)
        tree = {**SPEC, **self.workload.spec, "seed": seed}
        if self.rungs is not None:
            tree["evolution"] = {**tree["evolution"], "fidelity": {**RUNGS, "schedule": self.rungs}}
        if self.workload.uses_packages:
            create_search_from_spec(settings, tree, slots=SLOTS)
            return settings
        spec = parse_spec(tree)
        with transaction(engine) as connection:
            data_digest = "arithmetic" if self.workload.simulated else "digits"
            create_search(connection, spec, task=Task(8, 1, 10), data_digest=data_digest, slots=SLOTS, now=time.time())
        return settings


def read_fingerprint(engine: Engine) -> str:
    with read_transaction(engine) as connection:
        return get_fingerprint(connection, get_search(connection, "s").id).sha256


def run_search(settings: Settings, slots: int, search: StormSearch) -> str:
    """Run the search to its end without faults and return its fingerprint."""
    engine = open_record(settings.database_url)
    launcher = Launcher(settings.logs, search.workload.worker_program("0"))
    Supervisor(engine, settings, launcher, slots=slots, host_name="undisturbed", only="s").run()
    fingerprint = read_fingerprint(engine)
    engine.dispose()
    return fingerprint


@functools.cache
def undisturbed_fingerprint(folder: Path, seed: int, search: StormSearch) -> str:
    """Create the search in a new home, run it without faults, and return its fingerprint."""
    settings = search.new_home(folder / f"undisturbed-{search.workload.name}-{seed}", seed)
    return run_search(settings, SLOTS, search)
