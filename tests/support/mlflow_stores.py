"""Create small records with trainings and MLflow stores for these records, and read the stores."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

import pytest
from sqlalchemy import Connection, Engine, insert, select

from eatnas_daemon.followers.process import Follower
from eatnas_daemon.mlflow.candidate_runs import STATUSES
from eatnas_daemon.mlflow.client import connect
from eatnas_daemon.mlflow.metrics import EPOCH_METRICS
from eatnas_daemon.mlflow.sync import sync
from eatnas_db import training_record, transitions
from eatnas_db.database.engine import create_engine_for
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import CandidateState, FailureKind
from eatnas_db.provenance import Provenance
from eatnas_db.queries.record_uuid import get_record_uuid
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import epoch
from eatnas_db.searches.advance import breed_births, settle_births
from eatnas_db.searches.create import create_search
from eatnas_migrations import commands
from support.shared_folders import make_once
from support.waiting import eventually

SPEC: Final = {
    "name": "small",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": 2},
    "evolution": {"population": 2, "tournament": 1, "lag": 1},
    "budget": {"candidates": 5},
}
EXPERIMENT: Final = "eatnas/small"
PROVENANCE: Final = Provenance("d" * 64, {}, "e" * 64, {}, "processor", "none")
FOLLOWER: Final = "eatnas_daemon.mlflow"


def make_record(file: Path) -> Engine:
    """Make a record with one search and one worker on a CPU."""
    engine = create_engine_for(f"sqlite:///{file}")
    commands.upgrade(engine)
    with transaction(engine) as connection:
        create_search(connection, parse_spec(SPEC), task=Task(8, 1, 10), data_digest="e" * 64, slots=1, now=100.0)
        connection.execute(insert(host).values(id=1, name="here", seen_at=100.0))
        connection.execute(insert(device).values(id=1, host_id=1, uuid="cpu:here", kind="cpu", name="processor"))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=100.0))
    return engine


def lease_candidate(connection: Connection, now: float) -> Any:
    """Lease the next candidate, and return its fencing token."""
    leased = transitions.lease_next(connection, 1, host_id=1, worker_id=1, now=now)
    assert leased is not None
    return leased.token


def record_epoch(connection: Connection, token: Any, number: int, now: float) -> None:
    use = training_record.ResourceUse(50_000_000, 0.75)
    record = training_record.EpochRecord(number, 2.0 - number, 0.25, 1.5, 0.5, 0.1, 1.0, now, use)
    training_record.record_epochs(connection, token, [record], now)


def record_score(connection: Connection, token: Any, now: float) -> None:
    transitions.record_score(
        connection,
        token,
        fitness=0.5,
        metrics={"val_accuracy": 0.5},
        seed=1,
        provenance=PROVENANCE,
        device_seconds=2.0,
        now=now,
    )
    settle_births(connection, 1, now)
    breed_births(connection, 1, now)


def train_four(engine: Engine) -> Any:
    """Record two scores and one failure, lease a fourth candidate, and record its first epoch.

    Return the token of this lease.
    """
    with transaction(engine) as connection:
        for now in (1000.0, 2000.0):
            token = lease_candidate(connection, now)
            record_epoch(connection, token, 0, now + 10.25)
            record_epoch(connection, token, 1, now + 20)
            record_score(connection, token, now + 30)
        token = lease_candidate(connection, 3000.0)
        transitions.record_failure(connection, token, FailureKind.DIVERGED, "nan", now=3010.0)
        settle_births(connection, 1, 3010.0)
        breed_births(connection, 1, 3010.0)
        token = lease_candidate(connection, 4000.0)
        record_epoch(connection, token, 0, 4010.0)
    return token


def finish_fourth(engine: Engine, token: Any) -> None:
    """Record the last epoch and the score of the candidate that `train_four` left in training."""
    with transaction(engine) as connection:
        record_epoch(connection, token, 1, 4020.0)
        record_score(connection, token, 4030.0)


def copy_empty_store(factory: pytest.TempPathFactory, file: Path) -> None:
    """Write a copy of an empty SQLite store, because MLflow takes a second to create a store."""

    def make(folder: Path) -> None:
        connect(f"sqlite:///{folder / 'empty.db'}").search_experiments(max_results=1)

    shutil.copyfile(make_once(factory, "mlflow-store", make) / "empty.db", file)


def sync_runs(engine: Engine, uri: str) -> int:
    """Sync without pictures, which take seconds to render."""
    return sync(engine, uri, pictures=False)


def list_candidate_runs(uri: str, name: str = EXPERIMENT) -> tuple[Any, Any, list[Any]]:
    """Return the client, the experiment, and the runs of its candidates."""
    client: Any = connect(uri)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id])
    return client, experiment, [run for run in runs if "eatnas.candidate" in run.data.tags]


def get_search_run(uri: str, name: str = EXPERIMENT) -> tuple[Any, Any]:
    """Return the client and the run of the search."""
    client: Any = connect(uri)
    experiment = client.get_experiment_by_name(name)
    (run,) = client.search_runs([experiment.experiment_id], "tags.`eatnas.summary` LIKE '%'")
    return client, run


def statuses_by_birth(client: Any) -> dict[int, str]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], "tags.`eatnas.birth` LIKE '%'")
    return {int(run.data.tags["eatnas.birth"]): run.info.status for run in runs}


def assert_store_matches(engine: Engine, uri: str, name: str = EXPERIMENT) -> tuple[Any, dict[int, Any]]:
    """Assert that each attempted candidate has one run with the record's data.

    Return the client, and a mapping from births to runs.
    """
    client, experiment, runs = list_candidate_runs(uri, name)
    with read_transaction(engine) as connection:
        uuid = get_record_uuid(connection)
        rows = connection.execute(select(candidate).where(candidate.c.attempt > 0)).all()
        epochs = connection.execute(select(epoch).order_by(epoch.c.number)).all()
        search_row = connection.execute(select(search)).one()
    assert experiment.tags["eatnas.record"] == uuid
    assert experiment.tags["eatnas.search"] == search_row.name
    assert experiment.tags["eatnas.space"] == "eatnas-tiny"
    assert experiment.tags["eatnas.seed"] == str(search_row.seed)
    assert search_row.name in experiment.tags["mlflow.note.content"]
    assert sorted(run.data.tags["eatnas.candidate"] for run in runs) == sorted(f"{uuid}/{row.id}" for row in rows)
    by_id = {int(run.data.tags["eatnas.candidate"].split("/")[1]): run for run in runs}
    for row in rows:
        run = by_id[row.id]
        expected = "KILLED" if row.state == CandidateState.LEASED else STATUSES[CandidateState(row.state)]
        assert run.info.status == expected
        parent = by_id[row.parent_id].info.run_id if row.parent_id else None
        assert run.data.tags.get("mlflow.parentRunId") == parent
        assert run.data.params["origin"] == row.origin
        assert (run.data.params["params"], run.data.params["mult_adds"]) == (str(row.params), str(row.mult_adds))
        assert [run.data.params[f"block{number}"] for number in range(1, 8)]
        assert run.data.params["epochs"] == str(search_row.spec["training"]["epochs"])
        assert run.data.metrics.get("fitness") == row.fitness
        for metric in EPOCH_METRICS:
            history = client.get_metric_history(run.info.run_id, metric)
            assert [(m.step, m.timestamp, m.value) for m in history] == [
                (e.number, round(e.ended_at * 1000), getattr(e, metric)) for e in epochs if e.candidate_id == row.id
            ]
    return client, {int(run.data.tags["eatnas.birth"]): run for run in runs}


def count_runs(store: Path) -> int:
    """Count the candidates' runs in an SQLite store. Do not use MLflow, which would keep the file open."""
    if not store.exists():
        return 0
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        try:
            row = connection.execute("SELECT count(*) FROM runs WHERE name LIKE 'birth %'").fetchone()
        except sqlite3.OperationalError:
            return 0
    return int(row[0])


# Use ports below the range from which the kernel takes ports for clients, so that no client takes a port before the
# server starts. Each test process starts at a different port.
_PORTS = itertools.count(20_000 + os.getpid() % 120 * 100)


def free_port() -> int:
    for port in _PORTS:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """Run a real MLflow server, and kill all its processes at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "files")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    uri = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        eventually(lambda: process.poll() is not None or _answers(f"{uri}/health"))
        assert process.poll() is None, (folder / "server.log").read_text()
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def make_follower(database_url: str, uri: str, log: Path, *more: Callable[[], float]) -> Follower:
    return Follower((FOLLOWER,), {"EATNAS_DB_URL": database_url, "MLFLOW_TRACKING_URI": uri}, log, *more)


@contextmanager
def running_follower(
    engine: Engine, uri: str, log: IO[bytes] | int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the follower with short pauses. At the end, close its stdin and wait until it exits."""
    process = subprocess.Popen(
        [sys.executable, "-m", FOLLOWER, "--every", "0.1"],
        env={**os.environ, "EATNAS_DB_URL": str(engine.url), "MLFLOW_TRACKING_URI": uri},
        stdin=subprocess.PIPE,
        stderr=log,
    )
    assert process.stdin is not None
    try:
        yield process
        process.stdin.close()
        process.wait(200)
    finally:
        process.kill()
        process.stdin.close()
        process.wait()
