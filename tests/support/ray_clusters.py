"""Ray's own cluster on this machine: a head without CPUs, and nodes that come and go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from eatnas_daemon.ray_cluster.bridge_process import BridgeProcess
from eatnas_daemon.ray_cluster.cluster_scheduler import ClusterScheduler
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
        """Return the port of the head."""
        return int(self.address.rpartition(":")[2])

    def add_node(self, cpus: int = 1, **options: Any) -> Any:
        """Start a node, which joins by itself."""
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
    """Run a cluster; kill all of its processes at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray gives its workers a low priority, with which they start after minutes on a busy machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    cluster = LocalCluster(nodes, port)
    try:
        yield cluster
    finally:
        cluster.kill_all()


def supervise_in_cluster(
    settings: Settings,
    address: str,
    on_tick: Callable[[Supervisor], None] = lambda _: None,
    *,
    program: Sequence[str] = FAST_WORKER,
    slots: int | None = None,
    needs: WorkerNeeds = WorkerNeeds(),  # noqa: B008
    timeouts: Timeouts = TIMEOUTS,
) -> str:
    """Supervise the search in a cluster until it ends or the supervisor is stopped, and return its fingerprint."""
    bridge = BridgeProcess(address, needs, settings.home, settings.home / "ray", settings.logs / "ray.log")
    engine = open_record(settings.database_url, busy_seconds=30)
    Supervisor(
        engine,
        settings,
        RayLauncher(settings.logs, bridge, program),
        slots=0,
        host_name="here",
        only="s",
        gpu_scheduler=ClusterScheduler(bridge, slots),
        timeouts=timeouts,
    ).run(on_tick)
    return fingerprint_of(engine)
