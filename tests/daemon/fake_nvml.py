"""A fake of NVIDIA's library, since these tests run where no GPU is. It stands in for `pynvml` and for nothing else.

Its GPUs are what a test says they are; they compute nothing and change only by a test's hand. The errors and the
constants are pynvml's own.
"""

# The functions are named as the library names them.
# ruff: noqa: N802

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import psutil
import pynvml

GIB = 1 << 30


@dataclass
class FakeGpu:
    uuid: str
    total: int = 24 * GIB
    used: int = 0
    utilisation: int = 0
    compute: list[tuple[int, int | None]] = field(default_factory=list)
    graphics: list[tuple[int, int | None]] = field(default_factory=list)
    mig: bool = False
    prohibited: bool = False
    exclusive: bool = False
    memory_errors: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    """An error's number for each function that fails."""
    shown_as: str | None = None
    """Another UUID, whose workers are on this GPU by mistake."""


class FakeNvml:
    """Speaks like pynvml, as far as `eatnas_daemon.devices.nvml` calls it.

    With `worker_bytes`, the real workers that this process has started are on the GPU that their environment names,
    and take so much of its memory each.
    """

    def __init__(self, *gpus: FakeGpu, worker_bytes: int | None = None) -> None:
        self.gpus = list(gpus)
        self.worker_bytes = worker_bytes
        self.driver_error: int | None = None
        self.before_memory: Callable[[], object] = lambda: None
        self.sessions = 0

    def nvmlInit(self) -> None:
        self._driver()
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._driver()
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        if index >= len(self.gpus):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self._checked(self.gpus[index], "nvmlDeviceGetHandleByIndex")

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return self._checked(gpu, "nvmlDeviceGetUUID").uuid

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> bytes:
        # Its older versions speak in bytes.
        return b"NVIDIA Pretended"

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> SimpleNamespace:
        self.before_memory()
        self._checked(gpu, "nvmlDeviceGetMemoryInfo")
        used = gpu.used + (self.worker_bytes or 0) * len(self._workers(gpu))
        return SimpleNamespace(total=gpu.total, used=used, free=gpu.total - used)

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._checked(gpu, "nvmlDeviceGetUtilizationRates").utilisation, memory=0)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        workers = [(pid, self.worker_bytes) for pid in self._workers(gpu)]
        return _processes([*self._checked(gpu, "nvmlDeviceGetComputeRunningProcesses").compute, *workers])

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        return _processes(self._checked(gpu, "nvmlDeviceGetGraphicsRunningProcesses").graphics)

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        mode = int(self._checked(gpu, "nvmlDeviceGetMigMode").mig)
        return [mode, mode]

    def nvmlDeviceGetComputeMode(self, gpu: FakeGpu) -> int:
        if gpu.exclusive:
            return pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS
        return pynvml.NVML_COMPUTEMODE_PROHIBITED if gpu.prohibited else pynvml.NVML_COMPUTEMODE_DEFAULT

    def nvmlDeviceGetTotalEccErrors(self, gpu: FakeGpu, kind: int, counter: int) -> int:
        return self._checked(gpu, "nvmlDeviceGetTotalEccErrors").memory_errors

    def _workers(self, gpu: FakeGpu) -> list[int]:
        return [] if self.worker_bytes is None else workers_on(gpu.shown_as or gpu.uuid)

    def _driver(self) -> None:
        if self.driver_error is not None:
            raise pynvml.NVMLError(self.driver_error)

    def _checked(self, gpu: FakeGpu, function: str) -> FakeGpu:
        self._driver()
        if function in gpu.errors:
            if gpu.errors[function] == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND and function.endswith("Processes"):
                # Where there is a newer version of a function than the driver's, it raises something of its own.
                raise pynvml.NVMLLibraryMismatchError(
                    "Unversioned function called and the pyNVML version does not match"
                )
            raise pynvml.NVMLError(gpu.errors[function])
        return gpu


def workers_on(uuid: str) -> list[int]:
    """This process's workers that were told to be on a GPU."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            arguments = child.cmdline()
            if "--in-fd" in arguments and child.environ().get("CUDA_VISIBLE_DEVICES") == uuid:
                found.append(child.pid)
    return found


def _processes(pairs: list[tuple[int, int | None]]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in pairs]
