"""Bind a worker to one device, and check that it runs there."""

from __future__ import annotations

from collections.abc import Sequence

from eatnas_daemon.devices.model import CPU, DeviceSnapshot, format_gib


def worker_environment(device: DeviceSnapshot) -> dict[str, str]:
    """Return the environment variables that restrict a worker to a device and turn off TF32, as recipes demand."""
    return {"CUDA_VISIBLE_DEVICES": "" if device.kind == CPU else device.uuid, "NVIDIA_TF32_OVERRIDE": "0"}


def torch_device_name(device: DeviceSnapshot) -> str:
    """Return torch's name for a device within its `worker_environment`."""
    return CPU if device.kind == CPU else "cuda:0"


def find_placement_error(
    uuid: str, pid: int, block_bytes: int, before: Sequence[DeviceSnapshot], after: Sequence[DeviceSnapshot]
) -> str | None:
    """Return why a worker is not visible on the device `uuid`, or None if it is.

    The worker allocates a block of `block_bytes` between the snapshots `before` and `after`.
    """
    for device in after:
        if device.uuid != uuid and any(p.pid == pid and p.identity is not None for p in device.processes):
            return f"a worker for {uuid} started on {device.uuid}"
    free_before = {device.uuid: device.free_bytes for device in before}
    device_after = next((device for device in after if device.uuid == uuid), None)
    if device_after is None or uuid not in free_before:
        return f"{uuid} has disappeared"
    listed = any(process.pid == pid for process in device_after.processes)
    if listed or free_before[uuid] - device_after.free_bytes >= block_bytes:
        return None
    return f"a worker allocated {format_gib(block_bytes)}, but {uuid} does not show it"
