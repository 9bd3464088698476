"""Read the state of the GPUs from NVML, NVIDIA's management library."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import psutil
import pynvml

from eatnas_daemon.devices.model import CUDA, DeviceSnapshot, GpuProcess

_UNAVAILABLE_VALUE_ERRORS: Final = (
    pynvml.NVMLError_NotSupported,
    pynvml.NVMLError_FunctionNotFound,
    pynvml.NVMLError_NoPermission,
    # pynvml raises this error, which is not an `NVMLError`, for a function that the driver knows only by an older name.
    getattr(pynvml, "NVMLLibraryMismatchError", pynvml.NVMLError_FunctionNotFound),
)
"""Errors that a working device or driver reports for a value that it does not provide."""
_DRIVER_ERRORS: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver is installed",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "the NVIDIA driver is installed but not loaded; run `modprobe nvidia` or restart the machine"
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver was updated but the old kernel module is still loaded; restart the machine"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "permission to use the NVIDIA driver is denied; check the owner and mode of /dev/nvidia*"
    ),
}


class Nvml:
    """A session with the driver. The first read opens the session, and so does the first read after a failure.

    `library` is pynvml or an object with the same functions.
    """

    def __init__(self, library: Any = pynvml) -> None:
        self._library = library
        self._open = False
        self._known: dict[str, DeviceSnapshot] = {}
        self._uuid_at: dict[int, str] = {}
        self.error: str | None = None
        """The reason why the last read found no GPU; None if it found one."""

    def read_gpus(self) -> list[DeviceSnapshot]:
        """Return a snapshot of every GPU, without locks and process identities.

        A GPU that an earlier read found but this read did not find is included with an error.
        """
        try:
            count = self._count()
        except pynvml.NVMLError as error:
            self.error = _DRIVER_ERRORS.get(error.value, f"the NVIDIA driver does not work: {error}")
            self.close()
            count = 0
        else:
            self.error = None if count else "the NVIDIA driver is loaded but finds no GPU"
        gpus = [self._read_gpu(index) for index in range(count)]
        uuids = {gpu.uuid for gpu in gpus}
        reason = self.error or "the driver no longer lists it"
        missing = [replace(gpu, error=reason) for gpu in self._known.values() if gpu.uuid not in uuids]
        for index, gpu in enumerate(gpus):
            if gpu.error is None:
                self._known[gpu.uuid], self._uuid_at[index] = gpu, gpu.uuid
            else:
                self.close()
        return gpus + missing

    def close(self) -> None:
        """End the session. The next read opens a new session."""
        if self._open:
            self._open = False
            with contextlib.suppress(pynvml.NVMLError):
                self._library.nvmlShutdown()

    def _count(self) -> int:
        if not self._open:
            self._library.nvmlInit()
            self._open = True
        return int(self._library.nvmlDeviceGetCount())

    def _read_gpu(self, index: int) -> DeviceSnapshot:
        try:
            return self._query_gpu(index)
        except pynvml.NVMLError as error:
            unknown = DeviceSnapshot(f"unknown-{index}", CUDA, "GPU", index)
            return replace(self._known.get(self._uuid_at.get(index, ""), unknown), error=f"NVML error: {error}")

    def _query_gpu(self, index: int) -> DeviceSnapshot:
        library = self._library
        handle = library.nvmlDeviceGetHandleByIndex(index)
        mode = _value_or_none(lambda: library.nvmlDeviceGetMigMode(handle))
        mig = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        # Query the processes before the memory. Otherwise, the memory of a process that ends between the two queries
        # would have no owner.
        processes = self._query_processes(handle)
        total, free = self._query_memory(handle, mig=mig)
        rates = _value_or_none(lambda: library.nvmlDeviceGetUtilizationRates(handle))
        compute = _value_or_none(lambda: library.nvmlDeviceGetComputeMode(handle))
        errors = _value_or_none(
            lambda: library.nvmlDeviceGetTotalEccErrors(
                handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
            )
        )
        return DeviceSnapshot(
            uuid=_text(library.nvmlDeviceGetUUID(handle)),
            kind=CUDA,
            name=_text(library.nvmlDeviceGetName(handle)),
            index=index,
            total_bytes=total,
            free_bytes=free,
            utilisation_percent=None if rates is None else int(rates.gpu),
            processes=processes or (),
            processes_unknown=processes is None,
            mig_enabled=mig,
            compute_prohibited=compute == pynvml.NVML_COMPUTEMODE_PROHIBITED,
            compute_exclusive=compute == pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS,
            memory_errors=errors,
        )

    def _query_memory(self, handle: Any, *, mig: bool) -> tuple[int, int]:
        """Return the total and the free memory in bytes."""
        try:
            memory = self._library.nvmlDeviceGetMemoryInfo(handle)
        except pynvml.NVMLError_NotSupported:
            # The GPU shares the machine's memory. The memory of processes that do not use the GPU must not count as
            # used GPU memory.
            available = psutil.virtual_memory().available
            return available, available
        except pynvml.NVMLError_NoPermission:
            if not mig:  # the caller reports that MIG mode is not supported
                raise
            return 0, 0
        return int(memory.total), int(memory.free)

    def _query_processes(self, handle: Any) -> tuple[GpuProcess, ...] | None:
        """Return the processes on a GPU, or None if the driver does not report them."""
        computing = _value_or_none(lambda: self._library.nvmlDeviceGetComputeRunningProcesses(handle))
        if computing is None:
            return None
        rendering = _value_or_none(lambda: self._library.nvmlDeviceGetGraphicsRunningProcesses(handle)) or []
        # A process that renders and computes is in both lists. Such a process counts as computing.
        processes = {entry.pid: GpuProcess(entry.pid, "graphics", entry.usedGpuMemory) for entry in rendering}
        processes |= {entry.pid: GpuProcess(entry.pid, "compute", entry.usedGpuMemory) for entry in computing}
        return tuple(processes.values())


def _value_or_none(query: Callable[[], Any]) -> Any:
    try:
        return query()
    except _UNAVAILABLE_VALUE_ERRORS:
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
