"""Measure the cost of MLflow: the sync after each candidate, pages with many runs, and the idle process.

The candidates are written to the database without training. `--candidates 10000` fills a store with 10000 candidates,
syncs the last of them one by one, and reads the table of runs through MLflow's server.
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

import psutil
from sqlalchemy import Connection, Engine, insert

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
SPEC = {
    "name": "s",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": EPOCHS},
    "evolution": {"population": 64, "tournament": 8, "lag": 4},
    "reevaluation": {"top": 0},
}
PROVENANCE = Provenance("d" * 64, {}, "e" * 64, {}, "processor", "none")
BATCH_CANDIDATES = 100
PAGE_RUNS = 100
SETTLE_SECONDS = 6
"""A process that uses no processor time for this many seconds has finished its work."""


def new_record(file: Path, candidates: int) -> Engine:
    """Create a database with one search and one worker."""
    engine = create_engine_for(f"sqlite:///{file}")
    commands.upgrade(engine)
    spec = parse_spec({**SPEC, "budget": {"candidates": candidates}})
    with transaction(engine) as connection:
        connection.exec_driver_sql("PRAGMA cache_size = -64000")
        create_search(connection, spec, task=Task(8, 1, 10), data_digest="e" * 64, slots=1, now=100.0)
        connection.execute(insert(host).values(id=1, name="here", seen_at=100.0))
        connection.execute(insert(device).values(id=1, host_id=1, uuid="cpu:here", kind="cpu", name="processor"))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=100.0))
    return engine


def write_candidate(connection: Connection, number: int) -> None:
    """Write the lease, the epochs and the score of a candidate, and breed the next candidates."""
    now = 1000.0 + 10 * number
    leased = transitions.lease_next(connection, 1, host_id=1, worker_id=1, now=now)
    assert leased is not None
    accuracy = 0.5 + (number * 37 % 1000) / 4000 + number / 100_000
    for epoch in range(EPOCHS):
        record = training_record.EpochRecord(epoch, 2.0, 0.25, 1.5, accuracy, 0.1, 1.0, now + epoch)
        training_record.record_epochs(connection, leased.token, [record], now + epoch)
    transitions.record_score(
        connection,
        leased.token,
        fitness=accuracy,
        metrics={"val_accuracy": accuracy},
        seed=1,
        provenance=PROVENANCE,
        device_seconds=2.0,
        now=now + 9,
    )
    settle_births(connection, 1, now + 9)
    breed_births(connection, 1, now + 9)


def load_at_rest(engine: Engine, uri: str, seconds: float) -> float:
    """Return the share of a core that the syncing process uses while nothing happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "eatnas_daemon.mlflow"],
        env={**os.environ, "EATNAS_DB_URL": str(engine.url), "MLFLOW_TRACKING_URI": uri},
        stdin=subprocess.PIPE,
    )
    child = psutil.Process(process.pid)
    used = -1.0
    while used != sum(child.cpu_times()[:2]):
        used = sum(child.cpu_times()[:2])
        time.sleep(SETTLE_SECONDS)
    time.sleep(seconds)
    share = (sum(child.cpu_times()[:2]) - used) / seconds
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    return share


def page_seconds(uri: str, folder: Path) -> dict[str, float]:
    """Return the seconds that MLflow's server takes for a page of runs, by the order of the table."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    environment = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    try:
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            time.sleep(0.1)
        experiment = connect(uri).get_experiment_by_name("eatnas/s").experiment_id
        orders = {"newest first": "attributes.start_time DESC", "by fitness": "metrics.fitness DESC"}
        return {name: _search_seconds(port, experiment, order) for name, order in orders.items()}
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _search_seconds(port: int, experiment_id: str, order: str) -> float:
    """Return the median time of a search for runs."""
    query = {"experiment_ids": [experiment_id], "max_results": PAGE_RUNS, "order_by": [order]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search",
        data=json.dumps(query).encode(),
        headers={"Content-Type": "application/json"},
    )
    times = []
    for _ in range(3):
        started = time.perf_counter()
        with urllib.request.urlopen(request, timeout=300) as response:
            assert len(json.load(response)["runs"]) == PAGE_RUNS
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def sync_one_by_one(engine: Engine, uri: str, first: int, last: int) -> None:
    """Sync after each candidate and print the times."""
    started = time.perf_counter()
    mlflow_sync = MlflowSync(engine, connect(uri))
    mlflow_sync.sync_changes()
    print(f"restart with {first} runs: {time.perf_counter() - started:.1f} s")
    times: list[float] = []
    for number in range(first, last):
        with transaction(engine) as connection:
            write_candidate(connection, number)
        started = time.perf_counter()
        assert mlflow_sync.sync_changes() == 1
        times.append(time.perf_counter() - started)
    median = statistics.median(times)
    print(f"sync after each candidate: median {1000 * median:.0f} ms, maximum {1000 * max(times):.0f} ms")
    print(
        f"at most {60 / median:.0f} candidates per minute; 50 candidates per minute take {50 * median / 60:.1%} of "
        "the time"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--followed", type=int, default=100, help="number of these candidates to sync one by one")
    parser.add_argument("--rest-seconds", type=float, default=30, help="seconds to watch the idle process")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = new_record(folder / "eatnas.db", options.candidates)
        filled = options.candidates - options.followed
        for start in range(0, filled, BATCH_CANDIDATES):
            with transaction(engine) as connection:
                for number in range(start, min(start + BATCH_CANDIDATES, filled)):
                    write_candidate(connection, number)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        started, cpu_started = time.perf_counter(), time.process_time()
        assert sync(engine, uri, pictures=False) == filled
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
        print(
            f"sync of {filled} candidates: {1000 * seconds / filled:.1f} ms each, "
            f"{1000 * cpu / filled:.1f} ms of processor time"
        )
        sync_one_by_one(engine, uri, filled, options.candidates)
        started = time.perf_counter()
        sync(engine, uri)
        print(f"pictures and report of {options.candidates} candidates: {time.perf_counter() - started:.1f} s")
        for order, page in page_seconds(uri, folder).items():
            print(f"table of runs, {order}: {page:.2f} s")
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and "mlflow" in str(file))
        print(f"disk space: {size / options.candidates / 1000:.1f} kB per candidate")
        print(f"syncing process at rest: {load_at_rest(engine, uri, options.rest_seconds):.2%} of a core")


if __name__ == "__main__":
    main()
