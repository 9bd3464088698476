"""Bind a worker to one device, and check that it runs there."""

from __future__ import annotations

from collections.abc import Sequence

from eatnas_daemon.devices.model import CPU, DeviceSnapshot, in_gib


def worker_environment(device: DeviceSnapshot) -> dict[str, str]:
    """What a worker's environment says so that it sees this device and no other GPU, and computes as recipes say."""
    return {"CUDA_VISIBLE_DEVICES": "" if device.kind == CPU else device.uuid, "NVIDIA_TF32_OVERRIDE": "0"}


def torch_device(device: DeviceSnapshot) -> str:
    """What torch calls it within that environment."""
    return CPU if device.kind == CPU else "cuda:0"


def misplaced(
    uuid: str, pid: int, block_bytes: int, before: Sequence[DeviceSnapshot], after: Sequence[DeviceSnapshot]
) -> str | None:
    """What is wrong when a worker has allocated a block on `uuid` between two looks; None when it is seen there."""
    for device in after:
        if device.uuid != uuid and any(one.pid == pid and one.identity is not None for one in device.holders):
            return f"a worker for {uuid} came up on {device.uuid}"
    free = {device.uuid: device.free_bytes for device in before}
    there = next((device for device in after if device.uuid == uuid), None)
    if there is None or uuid not in free:
        return f"{uuid} is gone"
    if any(one.pid == pid for one in there.holders) or free[uuid] - there.free_bytes >= block_bytes:
        return None
    return f"a worker allocated {in_gib(block_bytes)} and {uuid} does not show it"
