"""Device snapshots and processes for tests of the devices package."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eatnas_daemon.devices.model import CPU_DEVICE, DeviceSnapshot, GpuProcess, ProcessIdentity
from support.fake_nvml import GIB, GPU_NAME

UUID = "GPU-11111111-aaaa-bbbb-cccc-000000000000"
NO_SUCH_PID = 2**31 - 1


class FakeClock:
    """A monotonic clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def gpu(**fields: Any) -> DeviceSnapshot:
    """Return an idle GPU of 24 GiB; `fields` replace its fields."""
    idle = {"total_bytes": 24 * GIB, "free_bytes": 24 * GIB}
    return DeviceSnapshot(**{"uuid": UUID, "kind": "cuda", "name": GPU_NAME, "index": 0, **idle, **fields})


def gpu_process(
    pid: int = 100,
    owner: str = "alice",
    name: str = "python",
    started_at: float = 50.0,
    is_eatnas_worker: bool = False,
    kind: str = "compute",
) -> GpuProcess:
    """Return a process of another user that takes 4 GiB."""
    return GpuProcess(pid, kind, 4 * GIB, ProcessIdentity(owner, name, started_at, is_eatnas_worker))


def machine() -> list[DeviceSnapshot]:
    """Return three idle GPUs and a CPU with 4 cores and 8 GiB."""
    uuids = ("GPU-aa11", "GPU-aa22", "GPU-bb33")
    gpus = [gpu(uuid=uuid, index=index) for index, uuid in enumerate(uuids)]
    return [*gpus, replace(CPU_DEVICE, cores=4, total_bytes=8 * GIB, free_bytes=8 * GIB)]
