"""The options of a daemon: the resources that it may use. A file keeps the options for `daemon restart`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from eatnas_db.errors import ConflictError
from eatnas_db.settings import Settings
from eatnas_db.worker_settings import (
    ADDRESS,
    CPUS,
    GPUS,
    LAUNCHER_SETTING,
    LAUNCHERS,
    LOCAL,
    RAY,
    WorkerSettings,
    is_number_of_cpus,
    is_share_of_gpu,
    require_head_address,
)

READY_PREFIX: Final = "daemon is running"
"""The start of the line that a daemon prints as soon as it handles signals and starts workers."""
MAX_LANES: Final = 16
"""The maximum number of lanes. Each lane uses two of the 32 CUDA streams that torch provides for a GPU."""
POLICIES: Final = ("yield", "stay")
_LOCAL_OPTIONS: Final = ("devices", "exclude", "max_per_device", "lanes", "allow", "policy")
_RAY_OPTIONS: Final = ("address", "cpus_per_worker", "gpus_per_worker")


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """The resources that a daemon may use, as given on the command line.

    Raises `ConflictError` for an invalid value, and for options that have no effect with the chosen launcher.
    """

    slots: int | None = None
    devices: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_per_device: int | None = None
    lanes: int | None = None
    allow: tuple[str, ...] = ()
    policy: str | None = None
    launcher: str | None = None
    address: str | None = None
    cpus_per_worker: float | None = None
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        if self.lanes is not None and not 1 <= self.lanes <= MAX_LANES:
            raise ConflictError(f"--lanes {self.lanes}: expected a number from 1 to {MAX_LANES}")
        if self.uses_lanes and self.max_per_device is not None:
            raise ConflictError(
                f"--max-per-device has no effect with --lanes {self.lanes}, which limits the candidates on each GPU"
            )
        if self.policy not in (None, *POLICIES):
            raise ConflictError(f"--policy {self.policy}: expected {' or '.join(POLICIES)}")
        if self.launcher not in (None, *LAUNCHERS):
            raise ConflictError(f"--launcher {self.launcher}: expected {' or '.join(LAUNCHERS)}")
        _require_options_of_launcher(self)
        if self.address is not None:
            _require_head_address(self.address)
        _require_resources(self.cpus_per_worker, self.gpus_per_worker)

    @property
    def uses_ray(self) -> bool:
        """Return whether the workers run in a Ray cluster."""
        return self.launcher == RAY

    @property
    def uses_lanes(self) -> bool:
        """Return whether a worker process on a GPU trains several candidates at the same time."""
        return (self.lanes or 1) > 1

    def arguments(self) -> list[str]:
        """Return the options as command-line arguments."""
        single: list[tuple[str, str | float | None]]
        single = [("--slots", self.slots), ("--max-per-device", self.max_per_device), ("--policy", self.policy)]
        single += [("--lanes", self.lanes), ("--launcher", self.launcher), ("--address", self.address)]
        single += [("--cpus-per-worker", self.cpus_per_worker), ("--gpus-per-worker", self.gpus_per_worker)]
        repeated = [("--devices", self.devices), ("--exclude", self.exclude), ("--allow", self.allow)]
        pairs = [(option, value) for option, value in single if value is not None]
        pairs += [(option, value) for option, values in repeated for value in values]
        return [part for option, value in pairs for part in (option, str(value))]


def change_options(previous: DaemonOptions, changes: DaemonOptions) -> DaemonOptions:
    """Return the previous options, overridden by the options that are set in `changes`.

    If `changes` names another launcher, the options of the previous launcher are dropped. A new number of lanes
    replaces the previous maximum number of workers on a GPU, and a new maximum replaces the previous number of lanes.
    """
    given = {name: value for name, value in asdict(changes).items() if value not in (None, ())}
    if changes.launcher is not None:
        dropped = _LOCAL_OPTIONS if changes.uses_ray else _RAY_OPTIONS
        previous = replace(previous, **{name: getattr(DaemonOptions(), name) for name in dropped}, launcher=None)
    if changes.uses_lanes:
        previous = replace(previous, max_per_device=None)
    elif changes.max_per_device is not None:
        previous = replace(previous, lanes=None)
    return replace(previous, **given)


def _require_options_of_launcher(options: DaemonOptions) -> None:
    unused = _LOCAL_OPTIONS if options.uses_ray else _RAY_OPTIONS
    for name in unused:
        if getattr(options, name) not in (None, ()):
            word = f"--{name.replace('_', '-')}"
            if options.uses_ray:
                raise ConflictError(f"{word} has no effect with --launcher ray, because Ray chooses the devices")
            raise ConflictError(f"{word} needs --launcher ray")


def _require_head_address(address: str) -> None:
    try:
        require_head_address(address)
    except ValueError as error:
        reason = "; ".join(filter(None, (str(error), f"expected {ADDRESS}")))
        raise ConflictError(f"--address {address}: {reason}") from None


def _require_resources(cpus: float | None, gpus: float | None) -> None:
    """Check the resources of each worker."""
    if cpus is not None and not is_number_of_cpus(cpus):
        raise ConflictError(f"--cpus-per-worker {cpus:g}: expected {CPUS}")
    if gpus is not None and not is_share_of_gpu(gpus):
        raise ConflictError(f"--gpus-per-worker {gpus:g}: expected {GPUS}")


def complete_options(options: DaemonOptions, settings: WorkerSettings) -> DaemonOptions:
    """Fill in a missing launcher and missing Ray options from the environment and the settings of the home.

    Settings of another launcher have no effect. Raises `ConflictError` for options that contradict the launcher.
    """
    launcher = options.launcher or settings.launcher or LOCAL
    defaults = {name: getattr(settings, name) for name in _RAY_OPTIONS} if launcher == RAY else {}
    missing = {name: value for name, value in defaults.items() if getattr(options, name) is None}
    try:
        return replace(options, launcher=launcher, **missing)
    except ConflictError as error:
        if options.launcher is not None:
            raise
        source = f"{LAUNCHER_SETTING} sets this launcher, and --launcher {LOCAL} overrides it"
        raise ConflictError(f"{error}; {source}") from None


def describe_options(options: DaemonOptions) -> str:
    """Return the options that are set, as they are written on a command line."""
    return " ".join(options.arguments())


def save_options(settings: Settings, options: DaemonOptions) -> None:
    """Write the options to the file that `daemon restart` reads. Raises `OSError`."""
    _options_file(settings).write_text(json.dumps(asdict(options)), encoding="utf-8")


def load_options(settings: Settings) -> DaemonOptions:
    """Return the options of the last start, or the defaults if the file is missing or invalid."""
    try:
        saved: Any = json.loads(_options_file(settings).read_text(encoding="utf-8"))
        fields: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}
        return DaemonOptions(**fields)
    except (OSError, ValueError, TypeError, AttributeError, ConflictError):
        return DaemonOptions()


def _options_file(settings: Settings) -> Path:
    return settings.lock_file.with_suffix(".options.json")
