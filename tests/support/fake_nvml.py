"""A fake of pynvml for machines without a GPU.

Its GPUs have the state that a test sets and never change on their own. The errors and constants are those of pynvml.
"""

# The functions have the names of NVIDIA's library.
# ruff: noqa: N802

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import psutil
import pynvml

GIB = 1 << 30
GPU_NAME = "NVIDIA Fake"


@dataclass
class FakeGpu:
    uuid: str
    total: int = 24 * GIB
    used: int = 0
    utilisation: int = 0
    compute: list[tuple[int, int | None]] = field(default_factory=list)
    """The pid and the memory of each computing process."""
    graphics: list[tuple[int, int | None]] = field(default_factory=list)
    mig: bool = False
    prohibited: bool = False
    exclusive: bool = False
    memory_errors: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    """The NVML error code of each function that fails."""
    shown_as: str | None = None
    """The UUID of another GPU whose workers run on this GPU by mistake."""


class FakeNvml:
    """Implements the functions of pynvml that `eatnas_daemon.devices.nvml` calls.

    With `worker_bytes`, the real workers that this process has started are on the GPU that their environment names, and
    each worker takes `worker_bytes` of the GPU's memory.
    """

    def __init__(self, *gpus: FakeGpu, worker_bytes: int | None = None) -> None:
        self.gpus = list(gpus)
        self.worker_bytes = worker_bytes
        self.driver_error: int | None = None
        self.before_memory: Callable[[], object] = lambda: None
        self.sessions = 0

    def nvmlInit(self) -> None:
        self._check_driver()
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._check_driver()
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        if index >= len(self.gpus):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self._check(self.gpus[index], "nvmlDeviceGetHandleByIndex")

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return self._check(gpu, "nvmlDeviceGetUUID").uuid

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> bytes:
        # Older versions of pynvml return bytes.
        return GPU_NAME.encode()

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> SimpleNamespace:
        self.before_memory()
        self._check(gpu, "nvmlDeviceGetMemoryInfo")
        used = gpu.used + (self.worker_bytes or 0) * len(self._workers(gpu))
        return SimpleNamespace(total=gpu.total, used=used, free=gpu.total - used)

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._check(gpu, "nvmlDeviceGetUtilizationRates").utilisation, memory=0)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        workers = [(pid, self.worker_bytes) for pid in self._workers(gpu)]
        return _processes([*self._check(gpu, "nvmlDeviceGetComputeRunningProcesses").compute, *workers])

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        return _processes(self._check(gpu, "nvmlDeviceGetGraphicsRunningProcesses").graphics)

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        mode = int(self._check(gpu, "nvmlDeviceGetMigMode").mig)
        return [mode, mode]

    def nvmlDeviceGetComputeMode(self, gpu: FakeGpu) -> int:
        if gpu.exclusive:
            return pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS
        return pynvml.NVML_COMPUTEMODE_PROHIBITED if gpu.prohibited else pynvml.NVML_COMPUTEMODE_DEFAULT

    def nvmlDeviceGetTotalEccErrors(self, gpu: FakeGpu, kind: int, counter: int) -> int:
        return self._check(gpu, "nvmlDeviceGetTotalEccErrors").memory_errors

    def _workers(self, gpu: FakeGpu) -> list[int]:
        return [] if self.worker_bytes is None else workers_on(gpu.shown_as or gpu.uuid)

    def _check_driver(self) -> None:
        if self.driver_error is not None:
            raise pynvml.NVMLError(self.driver_error)

    def _check(self, gpu: FakeGpu, function: str) -> FakeGpu:
        """Return the GPU, or raise the error that a test has set for this function."""
        self._check_driver()
        if function in gpu.errors:
            if gpu.errors[function] == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND and function.endswith("Processes"):
                # pynvml raises this error if the driver has only an older version of the function.
                raise pynvml.NVMLLibraryMismatchError(
                    "Unversioned function called and the pyNVML version does not match"
                )
            raise pynvml.NVMLError(gpu.errors[function])
        return gpu


def workers_on(uuid: str) -> list[int]:
    """Return the ids of those workers of this process whose environment names the GPU."""
    pids = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            arguments = child.cmdline()
            if "--in-fd" in arguments and child.environ().get("CUDA_VISIBLE_DEVICES") == uuid:
                pids.append(child.pid)
    return pids


def _processes(pairs: list[tuple[int, int | None]]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in pairs]
