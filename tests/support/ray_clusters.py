"""A Ray cluster on this machine: a head without CPUs, and nodes that tests or Ray's autoscaler start and end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil

from eatnas_daemon.ray_cluster.bridge_process import BridgeProcess
from eatnas_daemon.ray_cluster.cluster_scheduler import IDLE_SECONDS, ClusterScheduler
from eatnas_daemon.ray_cluster.ray_launcher import RayLauncher
from eatnas_daemon.ray_cluster.requests import WorkerNeeds
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db.database.engine import open_record
from eatnas_db.settings import Settings
from support.searches import FAST_WORKER, fingerprint_of

OBJECT_STORE_BYTES: Final = 80 << 20
TIMEOUTS: Final = Timeouts(tick=0.1, database=0.5, device_check=0.2)


class LocalCluster:
    """A head at a fixed address, and nodes with one CPU each."""

    def __init__(self, nodes: int, port: int | None = None) -> None:
        from ray.cluster_utils import Cluster

        head = _resources(0) if port is None else {**_resources(0), "gcs_server_port": port}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self.nodes: list[Any] = [self.add_node() for _ in range(nodes)]

    @property
    def port(self) -> int:
        """The port of the head."""
        return int(self.address.rpartition(":")[2])

    def add_node(self, cpus: int = 1, **options: Any) -> Any:
        """Start a node. The node joins the cluster by itself."""
        return self._cluster.add_node(wait=False, **_resources(cpus), **options)

    def kill(self, node: Any) -> None:
        """Kill the processes of a node."""
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_all(self) -> None:
        """Kill the processes of all nodes and of the head."""
        self._cluster.shutdown()


def _resources(cpus: int) -> dict[str, Any]:
    return {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}


@contextmanager
def local_cluster(nodes: int, port: int | None = None) -> Iterator[LocalCluster]:
    """Run a cluster. Kill all of its processes at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray gives its workers a low priority by default. On a busy machine, they would take minutes to start.
    os.environ.setdefault("RAY_worker_niceness", "0")
    cluster = LocalCluster(nodes, port)
    try:
        yield cluster
    finally:
        cluster.kill_all()


@contextmanager
def autoscaling_cluster(folder: Path, most_nodes: int) -> Iterator[str]:
    """Run a head whose autoscaler adds nodes with one CPU for pending actors and ends idle nodes.

    Yield the address of the head. Nodes are processes on this machine. Ray's own node provider for tests starts these
    processes. All processes are killed at the end.
    """
    import ray

    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    address = f"{ray.util.get_node_ip_address()}:{port}"
    config = folder / "autoscaler.json"
    config.write_text(json.dumps(_autoscaler_config(address, most_nodes)))
    variables = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += ["--num-cpus=0", "--include-dashboard=false", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            [*command, f"--autoscaling-config={config}"],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield address
    finally:
        processes = psutil.Process(head.pid).children(recursive=True)
        head.kill()
        head.wait()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _autoscaler_config(address: str, most_nodes: int) -> dict[str, Any]:
    resources = {"CPU": 1, "object_store_memory": OBJECT_STORE_BYTES}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "of-the-tests",
        "max_workers": most_nodes,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,  # all nodes have the address of this machine
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "one-cpu": {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": most_nodes},
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "auth": {"ssh_user": "nobody"},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        **{f"{name}_commands": [] for name in commands},
    }


def open_bridge(settings: Settings, address: str, needs: WorkerNeeds | None = None) -> BridgeProcess:
    """Return the bridge of a home's daemon. The bridge process starts at the first `poll`."""
    marker = settings.home / f"{settings.lock_file.stem}.ray"
    return BridgeProcess(address, needs or WorkerNeeds(), settings.home, marker, settings.logs / "ray.log")


def supervise_in_cluster(
    settings: Settings,
    address: str,
    on_tick: Callable[[Supervisor], None] = lambda _: None,
    *,
    program: Sequence[str] = FAST_WORKER,
    slots: int | None = None,
    needs: WorkerNeeds = WorkerNeeds(),  # noqa: B008
    timeouts: Timeouts = TIMEOUTS,
    only: str | None = "s",
    idle_seconds: float = IDLE_SECONDS,
) -> str:
    """Supervise the search in a cluster until it ends or the supervisor is stopped, and return its fingerprint."""
    bridge = open_bridge(settings, address, needs)
    engine = open_record(settings.database_url, busy_seconds=30)
    Supervisor(
        engine,
        settings,
        RayLauncher(settings.logs, bridge, program),
        slots=0,
        host_name=settings.host,
        only=only,
        gpu_scheduler=ClusterScheduler(bridge, slots, idle_seconds=idle_seconds),
        timeouts=timeouts,
    ).run(on_tick)
    return fingerprint_of(engine)
