"""Run searches in a Ray cluster on this machine while nodes, heads, actors and daemons are killed or frozen.

Each situation is a separate search. A situation passes if its search has the fingerprint of an undisturbed search on
this machine, if each candidate was scored exactly once, and if the daemon explained the situation in the expected
words.

    python benchmarks/ray_faults.py --out rows.jsonl [SITUATION ...]
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, func, select

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from eatnas_daemon.ray_cluster.bridge_process import BRIDGE_PROGRAM, BridgeProcess
from eatnas_daemon.ray_cluster.ray_launcher import RayLauncher
from eatnas_daemon.ray_cluster.requests import WorkerNeeds
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.hosts import worker
from eatnas_db.schema.trainings import attempt
from eatnas_db.settings import Settings, load_settings
from eatnas_protocol.messages import Exit
from scaling.postgres_server import PostgresServer
from support.ray_clusters import (
    TIMEOUTS,
    LocalCluster,
    autoscaling_cluster,
    local_cluster,
    open_bridge,
    supervise_in_cluster,
)
from support.searches import create_home, create_record, fetch_rows, fingerprint_of, supervise_search
from support.simulated_worker import SIMULATED_WORKER

SLOW_WORKER = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.2", "--scramble")
LIMIT_SECONDS = 900.0
CANDIDATES = 24


@dataclass
class Situation:
    """A search in a cluster. `faults` maps a number of scored candidates to the fault that happens then."""

    name: str
    nodes: int = 2
    expected: str = ""
    """Words that a reason of the daemon or the message of an attempt must contain."""
    faults: dict[int, Callable[[Stage], None]] = field(default_factory=dict)
    slots: int | None = None
    silence: float = TIMEOUTS.silence
    needs: WorkerNeeds = field(default_factory=WorkerNeeds)
    gpus: int = 0
    """The number of GPUs of an additional node. The simulated worker does not check that the GPUs exist."""
    daemon_killed: bool = False
    """Whether a first daemon starts the search and is killed."""


class Stage:
    """A running situation."""

    def __init__(self, situation: Situation, settings: Settings, cluster: LocalCluster | None) -> None:
        self.situation, self.settings, self._cluster = situation, settings, cluster
        self.supervisor: Supervisor | None = None
        self.reasons: list[str] = []
        self._faults = dict(situation.faults)
        self._engine = open_record(settings.database_url)
        self._deadline = time.monotonic() + LIMIT_SECONDS

    @property
    def cluster(self) -> LocalCluster:
        """Return the cluster in which the situation starts and kills nodes."""
        assert self._cluster is not None
        return self._cluster

    @cluster.setter
    def cluster(self, cluster: LocalCluster) -> None:
        self._cluster = cluster

    def on_tick(self, supervisor: Supervisor) -> None:
        """Collect the daemon's reasons, and cause the faults that are due."""
        self.supervisor = supervisor
        for reason in (supervisor.trouble, *supervisor.errors):
            if reason is not None and reason not in self.reasons:
                self.reasons.append(reason)
        scored = self.count_scored()
        due = [number for number in self._faults if scored >= number and (number == 0 or self.busy_pids())]
        for number in due:
            self._faults.pop(number)(self)
        if time.monotonic() > self._deadline:
            supervisor.stop()

    def count_scored(self) -> int:
        """Return the number of scored candidates."""
        with read_transaction(self._engine) as connection:
            query = select(func.count()).select_from(candidate).where(candidate.c.state == "scored")
            return int(connection.execute(query).scalar_one())

    def busy_pids(self) -> list[int]:
        """Return the pids of the workers that train."""
        slots = [] if self.supervisor is None else self.supervisor.slots
        training = [slot for slot in slots if slot.training is not None and slot.training.phase == "training"]
        return [slot.worker.ready.pid for slot in training if slot.worker and slot.worker.ready]

    def busy_actor(self) -> psutil.Process:
        """Return the process of an actor whose worker trains."""
        actor = psutil.Process(self.busy_pids()[0]).parent()
        assert actor is not None
        return actor


def kill_busy_node(stage: Stage) -> None:
    raylet = stage.busy_actor().parent()
    for node in stage.cluster.nodes:
        if any(info.process.pid == raylet.pid for info in node.all_processes.get("raylet", [])):
            stage.cluster.nodes.remove(node)
            stage.cluster.kill(node)
            return
    raise LookupError(f"no node has the raylet {raylet}")


def add_node(stage: Stage) -> None:
    stage.cluster.nodes.append(stage.cluster.add_node())


def add_unlike_node(stage: Stage) -> None:
    folder = stage.settings.home / "unlike"
    (folder / "torch-1.0.dist-info").mkdir(parents=True)
    (folder / "torch-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    stage.cluster.add_node(cpus=3, env_vars={"PYTHONPATH": str(folder)})


def freeze_bridge(stage: Stage) -> None:
    next(child for child in psutil.Process().children() if BRIDGE_PROGRAM in child.cmdline()).suspend()


def restart_head(stage: Stage) -> None:
    port = stage.cluster.port
    stage.cluster.kill_all()
    stage.cluster = LocalCluster(2, port)


def kill_first_daemon(settings: Settings, address: str) -> None:
    """Start a daemon, kill it while its workers train, and wait until the workers have ended. Raises `TimeoutError`."""
    first = subprocess.Popen([sys.executable, __file__, "--supervise", str(settings.home), address])
    engine, deadline = open_record(settings.database_url), time.monotonic() + LIMIT_SECONDS
    while not (pids := _leased_pids(engine)):
        _wait(deadline)
    first.kill()
    first.wait()
    while any(psutil.pid_exists(pid) for pid in pids):
        _wait(deadline)


def _leased_pids(engine: Engine) -> list[int]:
    with read_transaction(engine) as connection:
        query = select(worker.c.pid).join(attempt).where(attempt.c.ended_at.is_(None))
        return list(connection.execute(query).scalars())


def _wait(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError("the first daemon did not train, or its workers did not end")
    time.sleep(0.2)


def situations() -> list[Situation]:
    """Return all situations."""
    freeze = signal.SIGSTOP
    return [
        Situation("quiet"),
        Situation("two workers share a GPU", 0, "", {}, needs=WorkerNeeds(1, 0.5), gpus=1),
        Situation("a node is killed and another one added", 3, "ended", {4: kill_busy_node, 8: add_node}),
        Situation("the head and all nodes are restarted", 2, "Ray", {6: restart_head}),
        Situation("an actor is killed", 2, "ended", {5: lambda stage: stage.busy_actor().kill()}),
        Situation(
            "an actor is frozen",
            2,
            "suspended",
            {5: lambda stage: stage.busy_actor().send_signal(freeze)},
            silence=20,
        ),
        Situation("a worker is frozen", 2, "suspended", {5: lambda s: os.kill(s.busy_pids()[0], freeze)}, silence=5),
        Situation("the bridge is frozen", 2, "is lost; connecting again", {5: freeze_bridge}),
        Situation("the daemon is killed", 2, "", {}, daemon_killed=True),
        Situation("a worker is killed", 2, "SIGKILL", {5: lambda s: os.kill(s.busy_pids()[0], signal.SIGKILL)}),
        Situation("no room until a node is added", 0, "large enough", {}, slots=2),
        Situation("a node has other versions", 1, "torch 1.0", {0: add_unlike_node}, slots=3),
    ]


def run(situation: Situation, expected: str) -> dict[str, Any]:
    """Run a situation and return its row."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, local_cluster(situation.nodes) as cluster:
        settings = create_home(Path(folder) / "home")
        stage = Stage(situation, settings, cluster)
        if situation.gpus:
            cluster.add_node(cpus=4, num_gpus=situation.gpus)
        elif situation.nodes == 0:
            stage._faults[0] = lambda stage: _add_when_explained(stage)
        if situation.daemon_killed:
            kill_first_daemon(settings, cluster.address)
        try:
            fingerprint = supervise_in_cluster(
                settings,
                cluster.address,
                stage.on_tick,
                program=SLOW_WORKER,
                slots=situation.slots,
                needs=situation.needs,
                timeouts=replace(TIMEOUTS, silence=situation.silence),
            )
        finally:
            if stage.cluster is not cluster:
                stage.cluster.kill_all()
        return _row(situation, settings, stage.reasons, fingerprint == expected, time.monotonic() - started)


def run_autoscaler(expected: str) -> dict[str, Any]:
    """Start with no node, let the autoscaler add up to two nodes for a search, and wait until the nodes have left."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, autoscaling_cluster(Path(folder), 2) as address:
        settings = create_home(Path(folder) / "home")
        stage = Stage(Situation("the autoscaler adds nodes and ends them", 0, "autoscaler"), settings, None)
        nodes: list[int] = []

        def on_tick(supervisor: Supervisor) -> None:
            stage.on_tick(supervisor)
            count = len(raylets_of(address))
            if not nodes or nodes[-1] != count:
                nodes.append(count)
            if stage.count_scored() == CANDIDATES and count == 1 and max(nodes) > 1:
                supervisor.stop()

        fingerprint = supervise_in_cluster(
            settings, address, on_tick, program=SLOW_WORKER, slots=2, only=None, idle_seconds=5.0
        )
        row = _row(stage.situation, settings, stage.reasons, fingerprint == expected, time.monotonic() - started)
        return {**row, "passed": row["passed"] and max(nodes) > 1 and nodes[-1] == 1, "nodes": nodes}


def run_two_daemons(expected: str) -> dict[str, Any]:
    """Let two daemons train a search of one record on PostgreSQL in one cluster at the same time."""
    started = time.monotonic()
    situation = Situation("two daemons share a record and the cluster", 2)
    with tempfile.TemporaryDirectory() as folder, local_cluster(2) as cluster:
        server = PostgresServer(Path(folder) / "postgres")
        settings = load_settings({"EATNAS_DB_URL": server.url()}, str(Path(folder) / "home"))
        settings.home.mkdir()
        try:
            create_record(settings.database_url).dispose()
            command = [sys.executable, __file__, "--supervise", str(settings.home), cluster.address]
            variables = {**os.environ, "EATNAS_DB_URL": settings.database_url}
            daemons = [subprocess.Popen(command, env={**variables, "EATNAS_HOST": name}) for name in ("a", "b")]
            ended = [daemon.wait(LIMIT_SECONDS) for daemon in daemons]
            found = fingerprint_of(open_record(settings.database_url))
            row = _row(situation, settings, [], found == expected, time.monotonic() - started)
        finally:
            server.close()
        return {**row, "passed": row["passed"] and ended == [0, 0]}


def raylets_of(address: str) -> list[int]:
    """Return the pids of the raylets of a cluster."""
    return [
        process.pid
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "raylet" and any(address in part for part in process.info["cmdline"] or ())
    ]


def run_many_workers(rounds: int = 50, at_once: int = 4) -> dict[str, Any]:
    """Start hundreds of workers, kill half of them, let the other half exit, and count the resources that remain."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, local_cluster(0) as cluster:
        cluster.add_node(cpus=at_once)
        settings = create_home(Path(folder) / "home")
        bridge = open_bridge(settings, cluster.address)
        launcher, counts = RayLauncher(settings.logs, bridge, SIMULATED_WORKER), []
        while not bridge.nodes or not any(node.workers for node in bridge.nodes):
            bridge.poll()
            time.sleep(0.2)
        for number in range(rounds):
            workers = [launcher.launch(slot) for slot in range(at_once)]
            for worker_number, process in enumerate(workers):
                while not process.receive()[0]:
                    bridge.poll()
                    time.sleep(0.02)
                process.send(Exit()) if worker_number % 2 else process.kill()
            for process in workers:
                while not process.receive()[1]:
                    bridge.poll()
                    time.sleep(0.02)
                process.close()
            if number % 5 == 4:
                counts.append({"workers": (number + 1) * at_once, **_count_resources(bridge, settings)})
        bridge.close()
    growing = ("daemon_files", "bridge_files", "bridge_threads", "home_logs", "actor_processes")
    steady = all(counts[-1][name] <= counts[1][name] + 4 for name in growing)
    return {
        "situation": "hundreds of workers start and end",
        "passed": steady,
        "seconds": round(time.monotonic() - started, 1),
        "counts": counts,
    }


def _count_resources(bridge: BridgeProcess, settings: Settings) -> dict[str, int]:
    assert bridge.pid is not None
    process = psutil.Process(bridge.pid)
    names = [other.info["name"] or "" for other in psutil.process_iter(["name"])]
    return {
        "daemon_files": psutil.Process().num_fds(),
        "bridge_files": process.num_fds(),
        "bridge_threads": process.num_threads(),
        "bridge_mib": process.memory_info().rss >> 20,
        "home_logs": len(list(settings.logs.iterdir())),
        "actor_processes": sum("RemoteWork" in name for name in names),
    }


def _add_when_explained(stage: Stage) -> None:
    if any("large enough" in reason for reason in stage.reasons):
        add_node(stage)
    else:
        stage._faults[0] = _add_when_explained


def _row(
    situation: Situation, settings: Settings, reasons: Sequence[str], equal: bool, seconds: float
) -> dict[str, Any]:
    attempts = fetch_rows(settings, select(attempt.c.candidate_id, attempt.c.outcome, attempt.c.message))
    scored = [row.candidate_id for row in attempts if row.outcome == "scored"]
    messages = sorted({row.message for row in attempts if row.message})
    once = len(scored) == len(set(scored)) == CANDIDATES
    explained = any(situation.expected in text for text in [*reasons, *messages]) or not situation.expected
    return {
        "situation": situation.name,
        "passed": equal and once and explained,
        "equal_fingerprint": equal,
        "each_trained_once": once,
        "explained": explained,
        "attempts": len(attempts),
        "seconds": round(seconds, 1),
        "reasons": list(reasons),
        "messages": messages,
    }


def main() -> int:
    """Run the situations whose names contain one of the arguments; without arguments, run all situations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--supervise", nargs=2, metavar=("HOME", "ADDRESS"), help="run as the daemon of a situation")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    if options.supervise:
        home, address = options.supervise
        supervise_in_cluster(load_settings(os.environ, home), address, program=SLOW_WORKER)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        expected = supervise_search(create_home(Path(folder) / "calm"))
    passed = True
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        situation.name: functools.partial(run, situation, expected) for situation in situations()
    }
    runs["the autoscaler adds nodes and ends them"] = functools.partial(run_autoscaler, expected)
    runs["two daemons share a record and the cluster"] = functools.partial(run_two_daemons, expected)
    runs["hundreds of workers start and end"] = run_many_workers
    for name, run_one in runs.items():
        if options.names and not any(part in name for part in options.names):
            continue
        row = run_one()
        passed = passed and row["passed"]
        print(json.dumps(row, indent=1), flush=True)
        if options.out is not None:
            with options.out.open("a") as out:
                out.write(json.dumps(row) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
