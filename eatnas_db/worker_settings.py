"""Check the settings that say where workers run; the command line, the environment and `config.yaml` can contain
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RAY: Final = "ray"
LOCAL: Final = "local"
LAUNCHERS: Final = (LOCAL, RAY)
ADDRESS: Final = "HOST:PORT of the Ray head, for example 10.0.0.1:6379, or auto"
CPUS: Final = "a fraction between 0 and 1, or a whole number"
GPUS: Final = "a number from 0 to 1; a worker uses one GPU at most"
RAY_CLIENT: Final = "Ray Client is not supported; join the cluster with `ray start`"
"""The advice for an address such as ray://HOST:10001."""
LAUNCHER_SETTING: Final = "workers.launcher of config.yaml, or EATNAS_LAUNCHER,"


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The settings of workers from the environment and the home's `config.yaml`.

    A setting is None if it is not given.
    """

    launcher: str | None = None
    address: str | None = None
    cpus_per_worker: float | None = None
    gpus_per_worker: float | None = None


def require_head_address(address: str) -> None:
    """Raise `ValueError`, with advice for common mistakes, unless an address is HOST:PORT or `auto`."""
    if address.startswith("ray://"):
        raise ValueError(RAY_CLIENT)
    host, _, port = address.rpartition(":")
    has_port = port.isascii() and port.isdecimal() and 0 < int(port) < 65536
    if address != "auto" and not (host and "://" not in address and has_port):
        raise ValueError


def is_number_of_cpus(cpus: float) -> bool:
    """Return whether Ray accepts a number of CPUs: a fraction below 1 or a whole number."""
    return 0 < cpus < 1 or (cpus >= 1 and cpus % 1 == 0)


def is_share_of_gpu(gpus: float) -> bool:
    """Return whether a number of GPUs is a share of at most one GPU."""
    return 0 <= gpus <= 1
