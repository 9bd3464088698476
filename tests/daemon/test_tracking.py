"""The MLflow store says what the record says, once."""

import subprocess
import sys
from itertools import pairwise

import pytest
from sqlalchemy import insert, select

from eatnas_daemon.tracking import sync
from eatnas_db import steps, transitions
from eatnas_db.database import create_engine_for, reading, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.messages import EpochDone
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import FailureKind
from eatnas_db.schema import candidate, device, host, record, worker
from eatnas_db.transitions import Provenance
from eatnas_migrations import commands

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SPEC = {
    "name": "small",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": 2},
    "evolution": {"population": 2, "tournament": 1, "lag": 1},
    "budget": {"candidates": 5},
}
MADE_UNDER = Provenance("d" * 64, {}, "e" * 64, {}, "processor", "none")


@pytest.fixture
def engine(tmp_path):
    engine = create_engine_for(f"sqlite:///{tmp_path / 'eatnas.db'}")
    commands.upgrade(engine)
    spec = parse_spec(SPEC)
    with transaction(engine) as connection:
        steps.create_search(connection, spec, task=Task(8, 1, 10), data_digest="e" * 64, slots=1, now=100.0)
        connection.execute(insert(host).values(id=1, name="here", seen_at=100.0))
        connection.execute(insert(device).values(id=1, host_id=1, uuid="cpu:here", kind="cpu", name="processor"))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=100.0))
    yield engine
    engine.dispose()


def lease(connection, now):
    return transitions.lease_next(connection, 1, host_id=1, worker_id=1, now=now).token


def report(connection, token, number, now):
    done = EpochDone(token.candidate, token.attempt, number, 2.0 - number, 0.25, 1.5, 0.5, 0.1, 1.0, now)
    transitions.record_epochs(connection, token, [done], now)


def score(connection, token, now):
    transitions.record_score(
        connection,
        token,
        fitness=0.5,
        metrics={"val_accuracy": 0.5},
        seed=1,
        circumstances=MADE_UNDER,
        device_seconds=2.0,
        now=now,
    )
    steps.settle(connection, 1, now)
    steps.breed(connection, 1, now)


def fill(engine):
    """Two scored, one child failed, the next in training with one epoch."""
    with transaction(engine) as connection:
        for now in (1000.0, 2000.0):
            token = lease(connection, now)
            report(connection, token, 0, now + 10.25)
            report(connection, token, 1, now + 20)
            score(connection, token, now + 30)
        token = lease(connection, 3000.0)
        transitions.record_failure(connection, token, FailureKind.DIVERGED, "nan", now=3010.0)
        steps.settle(connection, 1, 3010.0)
        steps.breed(connection, 1, 3010.0)
        token = lease(connection, 4000.0)
        report(connection, token, 0, 4010.0)
    return token


def runs_of(uri):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("eatnas/small")
    runs = client.search_runs([experiment.experiment_id])
    return client, experiment, {int(run.data.tags["eatnas.birth"]): run for run in runs}, len(runs)


def check(engine, uri):
    client, experiment, runs, count = runs_of(uri)
    with reading(engine) as connection:
        uuid = connection.execute(select(record.c.uuid)).scalar_one()
        rows = {row.birth: row for row in connection.execute(select(candidate))}
    assert experiment.tags["eatnas.record"] == uuid
    assert count == 4
    assert [runs[birth].info.status for birth in range(4)] == ["FINISHED", "FINISHED", "FAILED", "RUNNING"]
    assert {birth: run.data.tags["eatnas.candidate"] for birth, run in runs.items()} == {
        birth: f"{uuid}/{rows[birth].id}" for birth in range(4)
    }
    births = {row.id: birth for birth, row in rows.items()}
    assert rows[2].parent_id is not None
    assert runs[2].data.tags["mlflow.parentRunId"] == runs[births[rows[2].parent_id]].info.run_id
    assert "mlflow.parentRunId" not in runs[0].data.tags
    return client, runs


def test_the_store_says_what_the_record_says_and_is_rebuilt(engine, tmp_path):
    token = fill(engine)
    store = tmp_path / "mlflow.db"
    uri = f"sqlite:///{store}"
    assert sync(engine, uri) == 4
    client, runs = check(engine, uri)
    first = runs[0]
    assert (first.info.run_name, first.info.start_time, first.info.end_time) == ("birth 0", 1_000_000, 1_030_000)
    assert first.data.params["epochs"] == "2"
    assert first.data.params["origin"] == "random"
    assert {f"block{number}" for number in range(1, 8)} <= set(first.data.params)
    assert first.data.metrics["fitness"] == 0.5
    history = client.get_metric_history(first.info.run_id, "train_loss")
    assert [(m.step, m.timestamp, m.value) for m in history] == [(0, 1_010_250, 2.0), (1, 1_020_000, 1.0)]

    assert sync(engine, uri) == 0
    check(engine, uri)

    with transaction(engine) as connection:
        report(connection, token, 1, 4020.0)
        score(connection, token, 4030.0)
    assert sync(engine, uri) == 1
    client, _, runs, count = runs_of(uri)
    assert count == 4
    assert runs[3].info.status == "FINISHED"
    history = client.get_metric_history(runs[3].info.run_id, "val_loss")
    assert [(m.step, m.timestamp) for m in history] == [(0, 4_010_000), (1, 4_020_000)]
    assert all(a.step < b.step for a, b in pairwise(history))

    another = f"sqlite:///{tmp_path / 'another.db'}"
    assert sync(engine, another) == 4
    assert runs_of(another)[3] == 4


def test_a_follower_rebuilds_a_deleted_store_and_ends_with_its_input(engine, tmp_path):
    fill(engine)
    store = tmp_path / "mlflow.db"
    uri = f"sqlite:///{store}"
    command = [sys.executable, "-m", "eatnas_daemon.tracking", "--db", str(engine.url), "--mlflow", uri]
    for _ in range(2):
        store.unlink(missing_ok=True)
        done = subprocess.run([*command, "--every", "0.2"], input=b"", capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    check(engine, uri)
