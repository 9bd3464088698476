"""Decide how many workers a daemon requests from a Ray cluster, and explain why none of them trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from eatnas_daemon.devices.availability import Availability
from eatnas_daemon.devices.model import DeviceSnapshot
from eatnas_daemon.devices.sharing import DeviceStatus
from eatnas_daemon.gpus.device_health import PAUSED
from eatnas_daemon.ray_cluster.bridge_process import BridgeProcess
from eatnas_daemon.ray_cluster.remote_process import UNPLACED_UUID, unplaced_device
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.timeouts import Timeouts

FREE: Final = Availability(True, "free")
CONNECT_SECONDS: Final = 20.0
"""A missing connection is reported as a problem only after this time, because connecting takes a while."""
CONNECTING: Final = (
    "connecting to the Ray cluster at {address}; if this lasts, check that --address has the port of its head, by "
    "default 6379"
)
PENDING_SECONDS: Final = 60.0
"""A worker that is pending for longer than this time counts as waiting for room in the cluster."""
IDLE_SECONDS: Final = 60.0
"""An idle worker for which no candidate waits keeps its place on a node for this long."""
NO_CANDIDATE_WAITS: Final = "no candidate waits for it"


class ClusterScheduler:
    """Opens a slot for each waiting candidate. The user may set the maximum number of slots; the default is the number
    of workers for which the cluster has room.

    Ray decides on which node a worker runs. The worker of a slot without a node is pending, which makes Ray's
    autoscaler add nodes. A worker that stays idle ends, so that the autoscaler can remove its node.
    """

    follows_demand: Final = True

    def __init__(
        self,
        bridge: BridgeProcess,
        max_workers: int | None,
        monotonic: Callable[[], float] = time.monotonic,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._bridge, self._max_workers, self._monotonic = bridge, max_workers, monotonic
        self._idle_seconds = idle_seconds
        self._unplaced = unplaced_device(on_gpu=bridge.needs.gpus > 0)
        self.statuses: Sequence[DeviceStatus] = ()
        self._pending_since: float | None = None
        self._started_at = monotonic()
        self._demand: int | None = None
        self._idle_since: dict[tuple[int, int], float] = {}
        """The time at which each idle worker became idle, by its slot and the number of its trainings."""
        self.problem: str | None = None

    def set_demand(self, slots: int) -> None:
        """Set the demand: the slots of running trainings plus the slots that waiting candidates could use."""
        self._demand = slots

    def update(self, slots: list[Slot], paused: Collection[str], timeouts: Timeouts) -> None:
        """Adapt the slots to the size of the cluster and to the pauses set by users."""
        self._bridge.poll()
        self._end_idle_workers(slots, timeouts)
        for slot in slots:
            if slot.device.uuid in paused:
                slot.evict_worker(PAUSED.reason, self._monotonic(), timeouts)
                continue
            if slot.worker is None:
                slot.device = self._unplaced
            is_unneeded = slot.worker is not None and slot.worker.exit_reason == NO_CANDIDATE_WAITS
            slot.may_start = self._bridge.nodes is not None and not is_unneeded
        self._resize(slots, timeouts)
        self.statuses = _gpu_statuses(slots, paused)
        self.problem = self._find_problem(slots, paused)

    def _end_idle_workers(self, slots: Sequence[Slot], timeouts: Timeouts) -> None:
        """Ask workers that have been idle for a long time to exit."""
        now = self._monotonic()
        workers = [(slot.number, slot.worker) for slot in slots if slot.worker is not None]
        idle = {(number, worker.trainings): worker for number, worker in workers if worker.idle}
        self._idle_since = {key: self._idle_since.get(key, now) for key in idle}
        staying = sum(not worker.exiting for _, worker in workers)
        for key, worker in idle.items():
            needed = self._demand is None or staying <= self._demand
            if not needed and now - self._idle_since[key] >= self._idle_seconds:
                worker.request_exit(now, timeouts, NO_CANDIDATE_WAITS)
                staying -= 1

    def _count_wanted(self, slots: Sequence[Slot]) -> int:
        """Return the number of slots that are needed now, including the slots of workers that became idle recently."""
        nodes, wanted = self._bridge.nodes, self._max_workers
        if wanted is None:
            # Without a connection, keep the slots of lost workers. If the cluster has no room, keep one pending slot,
            # which makes the autoscaler add nodes.
            wanted = len(slots) if nodes is None else max(1, sum(node.workers for node in nodes))
        if self._demand is None:
            return wanted
        staying = [slot.worker for slot in slots if slot.worker is not None and not slot.worker.exiting]
        needed = max(self._demand, sum(not worker.process.pending for worker in staying))
        # The slot of a paused GPU stays without a worker, so another slot has to replace it.
        closed = sum(slot.worker is None and not slot.may_start for slot in slots)
        return min(wanted, needed + closed)

    def _resize(self, slots: list[Slot], timeouts: Timeouts) -> None:
        """Add slots, or remove empty and pending slots."""
        nodes, wanted = self._bridge.nodes, self._count_wanted(slots)
        empty = [slot for slot in slots if slot.worker is None][: max(0, len(slots) - wanted)]
        slots[:] = [slot for slot in slots if slot not in empty]
        pending = [slot.worker for slot in slots if slot.worker is not None and slot.worker.process.pending]
        for worker in pending[: max(0, len(slots) - wanted)]:
            worker.request_exit(self._monotonic(), timeouts, NO_CANDIDATE_WAITS)
        taken = {slot.number for slot in slots}
        free = [number for number in range(wanted + len(taken)) if number not in taken]
        missing = free[: max(0, wanted - len(slots))]
        slots += [Slot(number, self._unplaced, may_start=nodes is not None) for number in missing]

    def _find_problem(self, slots: Sequence[Slot], paused: Collection[str]) -> str | None:
        if self._bridge.problem is not None:
            return self._bridge.problem
        if self._bridge.nodes is None:
            connects = self._monotonic() - self._started_at < CONNECT_SECONDS
            return None if connects else CONNECTING.format(address=self._bridge.address)
        if slots and all(slot.device.uuid in paused for slot in slots):
            return f"no device is free: all are {PAUSED.reason}"
        workers = [slot.worker for slot in slots if slot.worker is not None]
        trains = any(worker.ready is not None for worker in workers)
        for slot in slots:
            # A single worker may be lost while it starts. Two failed starts in a row are a problem even if other
            # workers train.
            if slot.start_error is not None and slot.failed_starts > trains:
                return f"workers cannot be started: {slot.start_error}"
        if not workers or not all(worker.process.pending for worker in workers):
            self._pending_since = None
            return None
        now = self._monotonic()
        self._pending_since = now if self._pending_since is None else self._pending_since
        # Even if a node is free, Ray needs some seconds to start an actor.
        starts = any(node.workers for node in self._bridge.nodes) and now - self._pending_since < PENDING_SECONDS
        return None if starts else _describe_pending(self._bridge)

    def add_worker(self, pid: int) -> None:
        """Ignore the worker, because Ray assigns its GPU."""

    def record_failure(self, uuid: str, candidate_id: int) -> None:
        """Ignore the failure, because Ray places the next worker."""

    def record_success(self, uuid: str) -> None:
        """Ignore the success."""

    def available_bytes(self, uuid: str, slots: Collection[Slot]) -> int:
        """Return the bytes of GPU memory that the trainings in `slots` leave for one more training; 0 if unknown."""
        device = self._find(uuid)
        if device is None:
            return 0
        return device.free_bytes - sum(slot.worker.outstanding_bytes for slot in slots if slot.worker is not None)

    def load(self, uuid: str) -> float | None:
        """Return the utilisation of a GPU, from 0 to 1, or None if it is unknown."""
        device = self._find(uuid)
        percent = None if device is None else device.utilisation_percent
        return None if percent is None else percent / 100

    def is_broken(self, uuid: str) -> bool:
        """Return False, because Ray ends the actors of a node that does not answer."""
        return False

    def close(self) -> None:
        """End the bridge."""
        self._bridge.close()

    def _find(self, uuid: str) -> DeviceSnapshot | None:
        return next((status.device for status in self.statuses if status.device.uuid == uuid), None)


def _gpu_statuses(slots: Sequence[Slot], paused: Collection[str]) -> list[DeviceStatus]:
    """Return the status of each GPU on which a worker trains, as last reported by the GPU's node."""
    statuses: dict[str, DeviceStatus] = {}
    for slot in slots:
        if slot.worker is not None and slot.on_gpu and slot.device.uuid != UNPLACED_UUID:
            device = slot.worker.process.read_device(slot.device)
            statuses[device.uuid] = DeviceStatus(device, PAUSED if device.uuid in paused else FREE)
    return list(statuses.values())


def _describe_pending(bridge: BridgeProcess) -> str:
    """Return the reason why all workers are pending: no node has room, or no node is large enough."""
    nodes = bridge.nodes or ()
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    size = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'} with {cpus:g} CPUs and {gpus:g} GPUs"
    if any(node.workers for node in nodes):
        return f"the Ray cluster ({size}) has no room now; each worker waits for {bridge.needs} on one node"
    return (
        f"no node of the Ray cluster ({size}) is large enough for a worker, which needs {bridge.needs}; "
        "Ray's autoscaler adds a node if it knows a node type that is large enough; otherwise add a node, or change "
        "--cpus-per-worker and --gpus-per-worker"
    )
