"""Bind a worker to one device, and check that the worker runs on this device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_report.formats import format_gib


@dataclass(frozen=True, slots=True)
class PlacementError:
    """The reason why a worker is not on its GPU."""

    message: str
    is_certain: bool = False
    """Whether the worker is certainly on another GPU. If false, a later probe may still show the worker on its own GPU.
    """

    @classmethod
    def on_other_gpu(cls, uuid: str, other: str) -> PlacementError:
        """Return the error for a worker that should run on the GPU `uuid` but runs on the GPU `other`."""
        return cls(f"a worker for {uuid} started on {other}", is_certain=True)


def worker_environment(device: DeviceSnapshot) -> dict[str, str]:
    """Return the environment variables that restrict a worker to a device."""
    return {"CUDA_VISIBLE_DEVICES": "" if device.kind == CPU else device.uuid}


def torch_device_name(device: DeviceSnapshot) -> str:
    """Return the name by which torch knows a device in a process with the device's `worker_environment`."""
    return CPU if device.kind == CPU else "cuda:0"


def find_placement_error(
    uuid: str, pid: int, block_bytes: int, before: Sequence[DeviceSnapshot], after: Sequence[DeviceSnapshot]
) -> PlacementError | None:
    """Return the reason why a worker is not visible on the device `uuid`, or None if it is visible.

    The worker allocates a block of `block_bytes` between the snapshots `before` and `after`.
    """
    for device in after:
        if device.uuid != uuid and any(p.pid == pid and p.identity is not None for p in device.processes):
            return PlacementError.on_other_gpu(uuid, device.uuid)
    free_before = {device.uuid: device.free_bytes for device in before}
    device_after = next((device for device in after if device.uuid == uuid), None)
    if device_after is None or uuid not in free_before:
        return PlacementError(f"{uuid} has disappeared")
    listed = any(process.pid == pid for process in device_after.processes)
    if listed or free_before[uuid] - device_after.free_bytes >= block_bytes:
        return None
    return PlacementError(f"a worker allocated {format_gib(block_bytes)}, but {uuid} does not show it")
