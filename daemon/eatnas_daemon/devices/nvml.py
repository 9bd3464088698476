"""NVML, NVIDIA's management library, as far as choosing devices needs it: what each GPU says of itself, or why not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import psutil
import pynvml

_NOT_TOLD: Final = (
    pynvml.NVMLError_NotSupported,
    pynvml.NVMLError_FunctionNotFound,
    pynvml.NVMLError_NoPermission,
    # How it tells of a function that is newer than the driver, where it has another name for it. Not an `NVMLError`.
    getattr(pynvml, "NVMLLibraryMismatchError", pynvml.NVMLError_FunctionNotFound),
)
"""A device or driver that does not know a figure, which is not a broken one."""
_NO_DRIVER: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "there is no NVIDIA driver on this machine",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "the NVIDIA driver is installed but not loaded; `modprobe nvidia` or a restart of the machine loads it"
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver was updated while the old one was in use; a restart of the machine mends it"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not speak to the NVIDIA driver; see who owns /dev/nvidia*",
}


@dataclass(frozen=True, slots=True)
class Client:
    """A process that a GPU says it serves."""

    pid: int
    kind: str
    """`compute`, or `graphics` for one that only draws."""
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU, as it is now. Without `trouble` everything is known that such a device tells."""

    index: int
    uuid: str
    name: str = "GPU"
    total_bytes: int = 0
    free_bytes: int = 0
    utilisation: int | None = None
    """Percent of the last moments in which it computed."""
    clients: tuple[Client, ...] | None = ()
    """None where this driver does not say."""
    mig: bool = False
    prohibited: bool = False
    """Whether an administrator has shut it for computing."""
    exclusive: bool = False
    """Whether one process at a time may compute on it."""
    memory_errors: int | None = None
    """That could not be corrected, since the driver was loaded."""
    trouble: str | None = None


class Nvml:
    """A session with the driver. It is opened by the first look and again after the driver was lost.

    `library` is pynvml, or what speaks like it.
    """

    def __init__(self, library: Any = pynvml) -> None:
        self._library = library
        self._open = False
        self._known: dict[str, Card] = {}
        self._at: dict[int, str] = {}
        self.trouble: str | None = None
        """Why the last look saw no GPU at all."""

    def cards(self) -> list[Card]:
        """Look at every GPU. One that was seen before and is gone now is listed with its trouble."""
        try:
            count = self._count()
        except pynvml.NVMLError as error:
            self.trouble = _NO_DRIVER.get(error.value, f"the NVIDIA driver does not work: {error}")
            self.close()
            count = 0
        else:
            self.trouble = None if count else "the NVIDIA driver runs, but shows no GPU here"
        seen = [self._card(index) for index in range(count)]
        uuids = {card.uuid for card in seen}
        why = self.trouble or "the driver does not list it any more"
        lost = [replace(card, trouble=why) for card in self._known.values() if card.uuid not in uuids]
        for card in seen:
            if card.trouble is None:
                self._known[card.uuid], self._at[card.index] = card, card.uuid
            else:
                self.close()
        return seen + lost

    def close(self) -> None:
        """Leave the driver, so that the next look begins anew."""
        if self._open:
            self._open = False
            with contextlib.suppress(pynvml.NVMLError):
                self._library.nvmlShutdown()

    def _count(self) -> int:
        if not self._open:
            self._library.nvmlInit()
            self._open = True
        return int(self._library.nvmlDeviceGetCount())

    def _card(self, index: int) -> Card:
        try:
            return self._ask(index)
        except pynvml.NVMLError as error:
            known = self._known.get(self._at.get(index, ""), Card(index, f"unknown-{index}"))
            return replace(known, trouble=f"it does not answer: {error}")

    def _ask(self, index: int) -> Card:
        library = self._library
        handle = library.nvmlDeviceGetHandleByIndex(index)
        mode = _told(lambda: library.nvmlDeviceGetMigMode(handle))
        mig = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        # Before the memory: what a process that ends in between has held would be nobody's.
        clients = self._clients(handle)
        total, free = self._memory(handle, mig=mig)
        rates = _told(lambda: library.nvmlDeviceGetUtilizationRates(handle))
        compute = _told(lambda: library.nvmlDeviceGetComputeMode(handle))
        errors = _told(
            lambda: library.nvmlDeviceGetTotalEccErrors(
                handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
            )
        )
        return Card(
            index=index,
            uuid=_text(library.nvmlDeviceGetUUID(handle)),
            name=_text(library.nvmlDeviceGetName(handle)),
            total_bytes=total,
            free_bytes=free,
            utilisation=None if rates is None else int(rates.gpu),
            clients=clients,
            mig=mig,
            prohibited=compute == pynvml.NVML_COMPUTEMODE_PROHIBITED,
            exclusive=compute == pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS,
            memory_errors=errors,
        )

    def _memory(self, handle: Any, *, mig: bool) -> tuple[int, int]:
        """Its memory, and what of it is free."""
        try:
            memory = self._library.nvmlDeviceGetMemoryInfo(handle)
        except pynvml.NVMLError_NotSupported:
            # It has none of its own, but shares the machine's; what others have of that is not in use on it.
            available = psutil.virtual_memory().available
            return available, available
        except pynvml.NVMLError_NoPermission:
            if not mig:  # which is refused anyway, and told so
                raise
            return 0, 0
        return int(memory.total), int(memory.free)

    def _clients(self, handle: Any) -> tuple[Client, ...] | None:
        computing = _told(lambda: self._library.nvmlDeviceGetComputeRunningProcesses(handle))
        if computing is None:
            return None
        drawing = _told(lambda: self._library.nvmlDeviceGetGraphicsRunningProcesses(handle)) or []
        # One that does both is in both lists, and computes.
        clients = {one.pid: Client(one.pid, "graphics", one.usedGpuMemory) for one in drawing}
        clients |= {one.pid: Client(one.pid, "compute", one.usedGpuMemory) for one in computing}
        return tuple(clients.values())


def _told(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except _NOT_TOLD:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
