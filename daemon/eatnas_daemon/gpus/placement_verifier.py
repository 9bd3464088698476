"""Verify that a new worker runs on its own GPU before it gets a training."""

from __future__ import annotations

from typing import Final

from eatnas_daemon.devices.model import DeviceSnapshot
from eatnas_daemon.devices.monitor import DeviceMonitor
from eatnas_daemon.devices.placement import PlacementError, find_placement_error
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.worker_state import WorkerState
from eatnas_protocol.messages import Ready

MAX_ATTEMPTS: Final = 3
"""A worker counts as misplaced after this many probes that do not show it on its GPU."""


class PlacementVerifier:
    """Compares a probe from before a worker's start with a probe from after the worker has allocated memory."""

    def __init__(self, monitor: DeviceMonitor) -> None:
        self._monitor = monitor
        self._before_start: dict[int, list[DeviceSnapshot]] = {}
        """The probe before the start of a slot's worker, by the slot's number."""

    def note_start(self, slot: Slot) -> None:
        """Keep the last probe, to compare it with a probe after the slot's next worker has started."""
        self._before_start[slot.number] = self._monitor.snapshots(wait=False)

    def verify(self, slot: Slot) -> str | None:
        """Mark the slot's worker as verified if it is on its GPU. Return the reason if the worker is misplaced."""
        worker = slot.worker
        if worker is None or worker.ready is None or worker.placement.verified:
            return None
        if worker.exiting or worker.kill_reason is not None:
            return None
        error = self._reported_elsewhere(slot.device.uuid, worker.ready)
        if error is not None:
            return error.message
        placement, probed_at = worker.placement, self._monitor.probe_started_at
        if probed_at <= max(worker.ready_at, placement.checked_at):
            return None
        placement.checked_at = probed_at
        placement.attempts += 1
        error = self._seen_elsewhere(slot, worker, worker.ready)
        if error is None:
            placement.verified = True
            return None
        return error.message if error.is_certain or placement.attempts >= MAX_ATTEMPTS else None

    def _reported_elsewhere(self, uuid: str, ready: Ready) -> PlacementError | None:
        """Return an error if CUDA in the worker reports another GPU."""
        for device in self._monitor.snapshots(wait=False):
            if device.uuid != uuid and _is_same_gpu(device.uuid, ready.gpu_uuid):
                return PlacementError.on_other_gpu(uuid, device.uuid)
        return None

    def _seen_elsewhere(self, slot: Slot, worker: WorkerState, ready: Ready) -> PlacementError | None:
        """Return an error if the driver does not show the worker on its GPU."""
        uuid, after = slot.device.uuid, self._monitor.snapshots(wait=False)
        before = self._before_start.get(slot.number, [])
        error = find_placement_error(uuid, worker.process.pid, ready.marker_bytes, before, after)
        hidden = any(device.uuid == uuid and device.attribution_error is not None for device in after)
        if error is not None and hidden and _is_same_gpu(uuid, ready.gpu_uuid):
            return None  # The driver shows no processes, but CUDA itself reports this GPU.
        return error


def _is_same_gpu(uuid: str, reported: str | None) -> bool:
    """Return whether the driver's UUID equals CUDA's UUID, which may lack the prefix."""
    return reported is not None and uuid.removeprefix("GPU-") == reported.removeprefix("GPU-")
