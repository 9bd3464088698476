"""Probe the devices in a background thread, so that a hanging driver does not block the caller."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.probe import probe_cpu, probe_devices

DRIVER_TIMEOUT_SECONDS: Final = 15.0
"""The seconds that a command waits for a driver that does not respond."""


def probe_once(nvml: Nvml, timeout_seconds: float = DRIVER_TIMEOUT_SECONDS) -> list[DeviceSnapshot]:
    """Return a snapshot of every device, the CPU last.

    If the driver does not respond within `timeout_seconds`, return the CPU alone and set `nvml.error`.
    """
    monitor = DeviceMonitor(lambda: probe_devices(nvml), timeout_seconds=timeout_seconds)
    devices = monitor.snapshots()
    monitor.close()
    if not devices:
        nvml.error = f"the NVIDIA driver has not responded for {timeout_seconds:g} s"
    return devices or [probe_cpu()]


class DeviceMonitor:
    """Probes the devices every `interval_seconds` in a thread.

    After `timeout_seconds` without an answer, the GPUs count as broken.
    """

    def __init__(
        self,
        probe: Callable[[], Sequence[DeviceSnapshot]],
        *,
        interval_seconds: float = 2.0,
        timeout_seconds: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe, self._monotonic = probe, monotonic
        self.interval_seconds, self._timeout_seconds = interval_seconds, timeout_seconds
        self._latest: Sequence[DeviceSnapshot] = ()
        self.probe_started_at = -math.inf
        """The monotonic time at which the probe of the current snapshots started; -inf before the first probe."""
        self._error: Exception | None = None
        self._responded, self._closed = threading.Event(), threading.Event()
        self._responded_at = monotonic()
        threading.Thread(target=self._run, name="device-monitor", daemon=True).start()

    def snapshots(self, *, wait: bool = True) -> list[DeviceSnapshot]:
        """Return the snapshots of the last probe. With `wait`, wait for the first probe.

        If the driver no longer responds, the snapshots of GPUs have an error. Raises the exception of the probe, if it
        raised one.
        """
        if wait:
            self._responded.wait(self._timeout_seconds)
        if self._error is not None:
            raise self._error
        silent_seconds = self._monotonic() - self._responded_at
        if silent_seconds <= self._timeout_seconds + self.interval_seconds:
            return list(self._latest)
        error = f"the driver has not responded for {silent_seconds:.0f} s"
        return [device if device.kind == CPU else replace(device, error=error) for device in self._latest]

    def close(self) -> None:
        """Stop probing."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            started_at = self._monotonic()
            try:
                self._latest = self._probe()
                self.probe_started_at = started_at
            except Exception as error:  # raised again by `snapshots`
                self._error = error
            self._responded_at = self._monotonic()
            self._responded.set()
            if self._error is not None:
                return
            self._closed.wait(self.interval_seconds)
