"""Build a record that contains one search with synthetic scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, insert

from eatnas_db.database.transactions import transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import FailureKind
from eatnas_db.provenance import Provenance
from eatnas_db.schema.hosts import device as device_table
from eatnas_db.schema.hosts import host, worker
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.create import create_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.settings import Settings
from eatnas_db.training_record import EpochRecord, record_epochs
from eatnas_db.transitions import lease_next, record_failure, record_score
from support.empty_records import create_empty_record

BIRTHS = 24
POPULATION = 6
FAILED_BIRTH = 9


@dataclass(frozen=True)
class Record:
    engine: Engine
    settings: Settings
    search_id: int


def make_record(
    folder: Path,
    new_url: Callable[[Path], str],
    *,
    start: float = 1000.0,
    device: str = "cpu",
    name: str = "small",
    births: int = BIRTHS,
    fitness_factor: float = 1,
) -> Record:
    """Create a search of `BIRTHS` candidates in a new record, and train the first `births` of them."""
    folder.mkdir(exist_ok=True)
    settings = Settings(folder, new_url(folder))
    engine = create_empty_record(settings.database_url)
    spec = parse_spec(
        {
            "name": name,
            "seed": 5,
            "space": "eatnas-tiny",
            "data": {"name": "digits"},
            "evolution": {"population": POPULATION, "tournament": 3, "lag": 3},
            "budget": {"candidates": BIRTHS},
            "reevaluation": {"top": 0},
        }
    )
    with transaction(engine) as connection:
        connection.execute(insert(host).values(id=1, name="h", seen_at=start))
        connection.execute(insert(device_table).values(id=1, host_id=1, uuid="u", kind="cpu", name=device))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=start))
        search_id = create_search(connection, spec, task=Task(8, 1, 10), data_digest="d" * 64, slots=1, now=start)
        for number in range(births):
            _train_one(connection, search_id, start + number, device, fitness_factor)
    return Record(engine, settings, search_id)


def _train_one(connection: Connection, search_id: int, now: float, device: str, fitness_factor: float) -> None:
    leased = lease_next(connection, search_id, host_id=1, worker_id=1, now=now)
    assert leased is not None
    if leased.birth == FAILED_BIRTH:
        record_failure(connection, leased.token, FailureKind.DIVERGED, "loss is \x1b[31mnan", now=now)
    else:
        fitness = fitness_factor / (3 + leased.birth * 7 % 11)
        epoch = EpochRecord(
            number=0,
            train_loss=1 - fitness,
            train_accuracy=fitness,
            val_loss=1.5 - fitness,
            val_accuracy=fitness,
            learning_rate=0.1,
            seconds=now % 7,
            ended_at=now,
        )
        record_epochs(connection, leased.token, [epoch], now)
        record_score(
            connection,
            leased.token,
            fitness=fitness,
            metrics={"val_accuracy": fitness, "fitness": fitness},
            seed=7,
            provenance=Provenance(f"p-{device}", {"lr": 0.1}, "d" * 64, {"torch": "2"}, device, "x"),
            device_seconds=2.0,
            now=now + 0.5,
        )
    advance_search(connection, lock_search(connection, search_id), now)
