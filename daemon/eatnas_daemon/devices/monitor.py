"""Probe the devices in a thread, so that a driver that hangs blocks nobody."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.probe import probe, processor_now

ANSWER_SECONDS: Final = 15.0
"""So long a command waits for a driver that says nothing."""


def look_once(nvml: Nvml, patience: float = ANSWER_SECONDS) -> list[DeviceSnapshot]:
    """The same, for as long as `patience` allows: of a driver that hangs, `nvml.trouble` says so."""
    lookout = DeviceMonitor(lambda: probe(nvml), patience=patience)
    seen = lookout.seen()
    lookout.close()
    if not seen:
        nvml.trouble = f"the NVIDIA driver has not answered for {patience:g} s"
    return seen or [processor_now()]


class DeviceMonitor:
    """Looks again and again in a thread of its own: a driver that does not answer holds up nobody."""

    def __init__(
        self,
        look: Callable[[], Sequence[DeviceSnapshot]],
        *,
        every: float = 2.0,
        patience: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self.every, self._patience, self._monotonic = look, every, patience, monotonic
        self._seen: Sequence[DeviceSnapshot] = ()
        self.begun_at = -math.inf
        """When the look began that is told now; -inf before the first."""
        self._error: Exception | None = None
        self._answered, self._over = threading.Event(), threading.Event()
        self._heard_at = monotonic()
        threading.Thread(target=self._go_on_looking, name="lookout", daemon=True).start()

    def seen(self, *, wait: bool = True) -> list[DeviceSnapshot]:
        """The last look; the first one is waited for. What no longer answers is told as broken."""
        if wait:
            self._answered.wait(self._patience)
        if self._error is not None:
            raise self._error
        silence = self._monotonic() - self._heard_at
        if silence <= self._patience + self.every:
            return list(self._seen)
        trouble = f"the driver has not answered for {silence:.0f} s"
        return [device if device.kind == CPU else replace(device, trouble=trouble) for device in self._seen]

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    def _go_on_looking(self) -> None:
        while not self._over.is_set():
            begun_at = self._monotonic()
            try:
                self._seen = self._look()
                self.begun_at = begun_at
            except Exception as error:  # raised where somebody hears it
                self._error = error
            self._heard_at = self._monotonic()
            self._answered.set()
            if self._error is not None:
                return
            self._over.wait(self.every)
