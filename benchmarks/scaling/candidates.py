"""A record with one search, and the database work of one candidate without its training."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection, Engine, insert

from eatnas_db import provenance, training_record, transitions
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.create import create_search
from eatnas_db.searches.locking import lock_search
from eatnas_migrations import commands

EPOCHS: Final = 5
PROVENANCE: Final = provenance.Provenance("p", {}, "data", {}, "cpu", "none")
SPEC: Final[dict[str, Any]] = {
    "name": "b",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "reevaluation": {"top": 0},
}


def new_record(url: str, candidates: int, changes: Mapping[str, Any] = MappingProxyType({})) -> Engine:
    """Create a database with one search, its initial population and one worker.

    `candidates` is the budget of the search, and `changes` maps keys of its spec to other values.
    """
    commands.upgrade(create_engine_for(url))
    engine = open_record(url)
    with transaction(engine) as connection:
        connection.execute(insert(host).values(name="here", seen_at=0))
        connection.execute(insert(device).values(host_id=1, uuid="cpu:here", kind="cpu", name="processor"))
        connection.execute(insert(worker).values(device_id=1, slot=0, pid=1, started_at=0))
        spec = parse_spec(SPEC, {"budget.candidates": candidates, "evolution.lag": 4, **changes})
        create_search(connection, spec, task=Task(8, 1, 10), data_digest="data", slots=2, now=0.0)
    return engine


def fitness_of(candidate_id: int) -> float:
    """Return an arbitrary fitness that depends only on the id."""
    return (candidate_id * 7919 % 1000) / 1000


def run_candidate(connection: Connection) -> None:
    """Write everything for one candidate: lease, epochs, checkpoint, score, settled birth, next birth and events."""
    leased = transitions.lease_next(connection, 1, host_id=1, worker_id=1, now=1.0)
    assert leased is not None
    token = leased.token
    fitness = fitness_of(token.candidate)
    epochs = [
        training_record.EpochRecord(number, 1.0, fitness, 1.0, fitness, 0.1, 1.0, 1.0) for number in range(EPOCHS)
    ]
    training_record.record_epochs(connection, token, epochs, 1.0)
    checkpoint = training_record.CheckpointRecord(f"c{token.candidate}.ckpt", "0" * 64, 100_000, EPOCHS, 0)
    training_record.record_checkpoint(connection, token, checkpoint, 1.0)
    transitions.record_score(
        connection,
        token,
        fitness=fitness,
        metrics={"val_accuracy": fitness, "val_loss": 1.0},
        seed=7,
        provenance=PROVENANCE,
        device_seconds=1.0,
        now=1.0,
    )
    advance_search(connection, lock_search(connection, 1), 1.0)
