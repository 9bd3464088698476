"""Count the workers for which this machine has room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from eatnas_daemon.devices.availability import Cause, check_availability
from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_daemon.devices.options import DeviceOptions, parse_options

PERMANENT_CAUSES: Final = frozenset({Cause.EXCLUDED, Cause.ERROR, Cause.UNSUPPORTED})
"""The causes that do not end by themselves. A GPU that is unavailable for such a cause does not become free later."""


def count_cpu_slots(cpu: DeviceSnapshot, workers: int = 0, needed_bytes: int = 0) -> int:
    """Return the number of workers for which the CPU has room, including the `workers` already running.

    Each worker takes one core; the load of other processes and the free memory limit the number.
    """
    other_load = max(0.0, cpu.load_average - workers)
    by_cores = max(1, cpu.cores - int(other_load))
    if needed_bytes <= 0:
        return by_cores
    return min(by_cores, workers + cpu.free_bytes // needed_bytes)


def count_usable_gpus(devices: Sequence[DeviceSnapshot], options: DeviceOptions) -> int:
    """Return the number of GPUs that a daemon may use now, or may use after other processes leave them."""
    gpus = [device for device in devices if device.kind != CPU]
    return sum(check_availability(gpu, options).cause not in PERMANENT_CAUSES for gpu in gpus)


def count_slots(devices: Sequence[DeviceSnapshot], environment: Mapping[str, str]) -> int:
    """Return the number of trainings that a daemon runs on this machine at the same time.

    This is the number of usable GPUs or, if there are none, of cores.
    """
    options = parse_options(devices, environment=environment)
    return count_usable_gpus(devices, options) or max(1, devices[-1].cores if options.use_cpu else 0)


def find_free_device(devices: Sequence[DeviceSnapshot], environment: Mapping[str, str]) -> DeviceSnapshot:
    """Return the device on which a training would start now: the first free GPU, or else the CPU."""
    options = parse_options(devices, environment=environment)
    return next((device for device in devices if check_availability(device, options).free), devices[-1])
