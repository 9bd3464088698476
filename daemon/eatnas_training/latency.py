"""Measure the latency of a trained network on a device."""

from __future__ import annotations

import copy
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from eatnas_db.domain.macro import Task
from eatnas_training.numerics import autocast

WARM_UP_RUNS: Final = 5
"""The number of batches before the measurement. They let libraries choose algorithms and fill caches."""
QUIET_LOAD: Final = 0.5
"""The highest load of other processes, in cores over the last minute, with which the machine counts as quiet."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The quartiles of the time of a batch in milliseconds, and whether the machine was quiet (None if unknown)."""

    device_name: str
    median: float
    low: float
    high: float
    quiet: bool | None


class LatencyMeasurement:
    """The measurement of one network, batch by batch; `settings` has the fields of `domain.objectives.LatencySettings`.

    `other_load` returns the number of cores that other processes keep busy, or None if it is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        settings: Mapping[str, Any],
        *,
        device: str,
        precision: str,
        clock: Callable[[], float],
        other_load: Callable[[], float | None],
    ) -> None:
        self._settings, self._clock, self._other_load = settings, clock, other_load
        self._device = _measured_device(settings["device"], device)
        self._precision = precision if self._device == device else "float32"
        # Copy the network, because the weights of the training must stay on its device.
        self._model = copy.deepcopy(model).to(self._device).eval()
        generator = torch.Generator().manual_seed(0)
        shape = (settings["batch"], task.channels, task.resolution, task.resolution)
        images = torch.randn(shape, generator=generator).to(self._device)
        self._images: Tensor = images.contiguous(memory_format=torch.channels_last)

    def steps(self) -> Iterator[Latency | None]:
        """Yield None after each batch, and the result at the end."""
        load, seconds = self._other_load(), []
        for number in range(-WARM_UP_RUNS, self._settings["runs"]):
            elapsed = self._time_batch()
            if number >= 0:
                seconds.append(elapsed)
            yield None
        low, median, high = (1000 * value for value in statistics.quantiles(seconds, n=4, method="inclusive"))
        quiet = None if load is None else load <= QUIET_LOAD
        yield Latency(_device_name(self._device), median, low, high, quiet)

    def _time_batch(self) -> float:
        threads = torch.get_num_threads()
        torch.set_num_threads(self._settings["threads"])
        try:
            with torch.inference_mode(), autocast(self._device, self._precision):
                self._synchronize()
                started = self._clock()
                self._model(self._images)
                self._synchronize()
                return self._clock() - started
        finally:
            torch.set_num_threads(threads)

    def _synchronize(self) -> None:
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)


def load_of_other_processes() -> float | None:
    """Return the load of the last minute minus one core for this process; None on systems without a load average."""
    try:
        return max(0.0, os.getloadavg()[0] - 1)
    except OSError:
        return None


def _measured_device(wanted: str, device: str) -> str:
    """Return the device for the measurement: the processor, or the GPU on which the worker trains."""
    if wanted == "cpu" or torch.device(device).type == wanted:
        return "cpu" if wanted == "cpu" else device
    raise RuntimeError(
        f"the spec measures latency_ms on {wanted}, but this worker trains on {device}; run the search on machines "
        f"with {wanted}, or create a search that measures latency_ms with device: cpu"
    )


def _device_name(device: str) -> str:
    return str(torch.cuda.get_device_name(device)) if device != "cpu" else platform.processor() or platform.machine()
