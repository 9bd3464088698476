"""What MLflow costs: a look by candidate at 50 candidates a minute, 10,000 runs, and the follower at rest.

Candidates are trained by bookkeeping alone. `--candidates 10000` fills a store of that size, follows the last of
them as they come, and opens the table of the runs and the best run's page over MLflow's own server.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import insert

from eatnas_daemon.mlflow.client import connect
from eatnas_daemon.mlflow.sync import MlflowSync, sync
from eatnas_db import training_record, transitions
from eatnas_db.database.engine import create_engine_for
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.provenance import Provenance
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.searches.advance import breed_births, settle_births
from eatnas_db.searches.create import create_search
from eatnas_migrations import commands

EPOCHS = 4
TREE = {
    "name": "s",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": EPOCHS},
    "evolution": {"population": 64, "tournament": 8, "lag": 4},
    "yardstick": {"top": 0},
}
MADE_UNDER = Provenance("d" * 64, {}, "e" * 64, {}, "processor", "none")


def new_record(file: Path, candidates: int) -> Any:
    engine = create_engine_for(f"sqlite:///{file}")
    commands.upgrade(engine)
    spec = parse_spec({**TREE, "budget": {"candidates": candidates}})
    with transaction(engine) as connection:
        connection.exec_driver_sql("PRAGMA cache_size = -64000")
        create_search(connection, spec, task=Task(8, 1, 10), data_digest="e" * 64, slots=1, now=100.0)
        connection.execute(insert(host).values(id=1, name="here", seen_at=100.0))
        connection.execute(insert(device).values(id=1, host_id=1, uuid="cpu:here", kind="cpu", name="processor"))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=100.0))
    return engine


def train(connection: Any, number: int) -> None:
    """One candidate from its lease to its score and the births after it."""
    now = 1000.0 + 10 * number
    token = transitions.lease_next(connection, 1, host_id=1, worker_id=1, now=now).token  # type: ignore[union-attr]
    accuracy = 0.5 + (number * 37 % 1000) / 4000 + number / 100_000
    for epoch in range(EPOCHS):
        done = training_record.EpochRecord(epoch, 2.0, 0.25, 1.5, accuracy, 0.1, 1.0, now + epoch)
        training_record.record_epochs(connection, token, [done], now + epoch)
    transitions.record_score(
        connection,
        token,
        fitness=accuracy,
        metrics={"val_accuracy": accuracy},
        seed=1,
        provenance=MADE_UNDER,
        device_seconds=2.0,
        now=now + 9,
    )
    settle_births(connection, 1, now + 9)
    breed_births(connection, 1, now + 9)


def rest(engine: Any, uri: str, seconds: float) -> float:
    """The follower's share of one core while nothing happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "eatnas_daemon.mlflow"],
        env={**os.environ, "EATNAS_DB_URL": str(engine.url), "MLFLOW_TRACKING_URI": uri},
        stdin=subprocess.PIPE,
    )
    child = psutil.Process(process.pid)
    used = -1.0
    while used != sum(child.cpu_times()[:2]):  # until it has caught up
        used = sum(child.cpu_times()[:2])
        time.sleep(6)
    time.sleep(seconds)
    share = (sum(child.cpu_times()[:2]) - used) / seconds
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    return share


def pages(uri: str, folder: Path) -> dict[str, float]:
    """Seconds until MLflow's server answers what its pages ask for: 100 runs, newest first and by fitness."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    program = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    environment = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            program, env={**os.environ, **environment}, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    try:
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            time.sleep(0.1)
        experiment = connect(uri).get_experiment_by_name("eatnas/s").experiment_id
        seconds = {}
        for name, order in (("newest first", "attributes.start_time DESC"), ("by fitness", "metrics.fitness DESC")):
            question = {"experiment_ids": [experiment], "max_results": 100, "order_by": [order]}
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search",
                data=json.dumps(question).encode(),
                headers={"Content-Type": "application/json"},
            )
            times = []
            for _ in range(3):
                begun = time.perf_counter()
                with urllib.request.urlopen(request, timeout=300) as response:
                    assert len(json.load(response)["runs"]) == 100
                times.append(time.perf_counter() - begun)
            seconds[name] = statistics.median(times)
        return seconds
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--followed", type=int, default=100, help="of these, so many are followed one by one")
    parser.add_argument("--rest-seconds", type=float, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = new_record(folder / "eatnas.db", options.candidates)
        filled = options.candidates - options.followed
        for begin in range(0, filled, 100):
            with transaction(engine) as connection:
                for number in range(begin, min(begin + 100, filled)):
                    train(connection, number)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        begun, used = time.perf_counter(), time.process_time()
        assert sync(engine, uri, pictures=False) == filled
        took, busy = time.perf_counter() - begun, time.process_time() - used
        print(f"sync of {filled}: {1000 * took / filled:.1f} ms a candidate, {1000 * busy / filled:.1f} ms of a core")

        begun = time.perf_counter()
        mlflow_sync = MlflowSync(engine, connect(uri))
        mlflow_sync.sync_changes()
        print(f"begin anew on {filled} runs: {time.perf_counter() - begun:.1f} s")
        times, used = [], time.process_time()
        for number in range(filled, options.candidates):
            with transaction(engine) as connection:
                train(connection, number)
            begun = time.perf_counter()
            assert mlflow_sync.sync_changes() == 1
            times.append(time.perf_counter() - begun)
        middle, worst = statistics.median(times), max(times)
        print(f"a look after each candidate: median {1000 * middle:.0f} ms, worst {1000 * worst:.0f} ms")
        print(
            f"so at most {60 / middle:.0f} candidates a minute; 50 take {50 * middle / 60:.1%} of the follower's time"
        )

        begun = time.perf_counter()
        sync(engine, uri)
        print(f"pictures and report of {options.candidates} candidates: {time.perf_counter() - begun:.1f} s")
        for what, seconds in pages(uri, folder).items():
            print(f"the run table, {what}: {seconds:.2f} s")
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and "mlflow" in str(file))
        print(f"on the disk: {size / options.candidates / 1000:.1f} kB a candidate")
        print(f"the follower at rest: {rest(engine, uri, options.rest_seconds):.2%} of a core")


if __name__ == "__main__":
    main()
