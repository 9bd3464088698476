"""The options of a daemon: which resources of the machine it may use. Kept in a file for the next start."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from eatnas_db.errors import ConflictError
from eatnas_db.settings import Settings

READY_PREFIX: Final = "daemon is running"
"""The beginning of the line that a daemon prints when it accepts signals and starts workers."""
POLICIES: Final = ("yield", "stay")


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """Which resources of the machine a daemon may use, as given on the command line.

    Raises `ConflictError` for an unknown policy.
    """

    slots: int | None = None
    devices: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_per_device: int | None = None
    allow: tuple[str, ...] = ()
    policy: str | None = None

    def __post_init__(self) -> None:
        if self.policy not in (None, *POLICIES):
            raise ConflictError(f"--policy {self.policy}: expected {' or '.join(POLICIES)}")

    def arguments(self) -> list[str]:
        """Return the options as command-line arguments."""
        single = [("--slots", self.slots), ("--max-per-device", self.max_per_device), ("--policy", self.policy)]
        repeated = [("--devices", self.devices), ("--exclude", self.exclude), ("--allow", self.allow)]
        pairs = [(option, value) for option, value in single if value is not None]
        pairs += [(option, value) for option, values in repeated for value in values]
        return [part for option, value in pairs for part in (option, str(value))]


def describe_options(options: DaemonOptions) -> str:
    """Return the options that were given, as they are written on the command line."""
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
