"""A fake of NVIDIA's library, since these tests run where no GPU is. It stands in for `pynvml` and for nothing else.

Its GPUs are what a test says they are; they compute nothing and change only by a test's hand. The errors and the
constants are pynvml's own.
"""

# The functions are named as the library names them.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

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
    memory_errors: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    """An error's number for each function that fails."""


class FakeNvml:
    """Speaks like pynvml, as far as `eatnas_daemon.nvml` calls it."""

    def __init__(self, *gpus: FakeGpu) -> None:
        self.gpus = list(gpus)
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
        return SimpleNamespace(total=gpu.total, used=gpu.used, free=gpu.total - gpu.used)

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._checked(gpu, "nvmlDeviceGetUtilizationRates").utilisation, memory=0)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        return _processes(self._checked(gpu, "nvmlDeviceGetComputeRunningProcesses").compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        return _processes(self._checked(gpu, "nvmlDeviceGetGraphicsRunningProcesses").graphics)

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        mode = int(self._checked(gpu, "nvmlDeviceGetMigMode").mig)
        return [mode, mode]

    def nvmlDeviceGetComputeMode(self, gpu: FakeGpu) -> int:
        return pynvml.NVML_COMPUTEMODE_PROHIBITED if gpu.prohibited else pynvml.NVML_COMPUTEMODE_DEFAULT

    def nvmlDeviceGetTotalEccErrors(self, gpu: FakeGpu, kind: int, counter: int) -> int:
        return self._checked(gpu, "nvmlDeviceGetTotalEccErrors").memory_errors

    def _driver(self) -> None:
        if self.driver_error is not None:
            raise pynvml.NVMLError(self.driver_error)

    def _checked(self, gpu: FakeGpu, function: str) -> FakeGpu:
        self._driver()
        if function in gpu.errors:
            raise pynvml.NVMLError(gpu.errors[function])
        return gpu


def _processes(pairs: list[tuple[int, int | None]]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in pairs]
