"""What holds for one home: its optional `config.yaml`, and the environment before it. Read only when asked for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eatnas_db.errors import EatnasError

MAX_BYTES: Final = "EATNAS_MAX_BYTES"
SECTIONS: Final = ("storage", "hooks")
HOOK_EVENTS: Final = ("finished", "failed", "paused", "waiting")
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", re.IGNORECASE)


def read_max_bytes(home: Path, environment: Mapping[str, str]) -> int | None:
    """How much a home may take on the disk: `EATNAS_MAX_BYTES`, else its `storage.max_bytes`; None: no bound.

    Raises `EatnasError` that names what is wrong and where.
    """
    if given := environment.get(MAX_BYTES):
        return _bytes(given, MAX_BYTES)
    file = home / "config.yaml"
    if not file.exists():
        return None
    given = _section(file, "storage", ("max_bytes",)).get("max_bytes")
    return None if given is None else _bytes(given, f"{file}: storage.max_bytes")


@dataclass(frozen=True, slots=True)
class Hooks:
    """The user's command and its arguments, and the events that it is started for."""

    command: tuple[str, ...]
    events: tuple[str, ...] = HOOK_EVENTS


def read_hooks(home: Path) -> Hooks | None:
    """The home's `hooks`; None where there are none. Raises `EatnasError` that names what is wrong and where."""
    file = home / "config.yaml"
    if not file.exists():
        return None
    section = _section(file, "hooks", ("on_event", "events"))
    given, events = section.get("on_event"), section.get("events", list(HOOK_EVENTS))
    if given is None:
        if "events" in section:
            raise EatnasError(f"{file}: hooks.events is there without hooks.on_event, the command to start")
        return None
    what = f"{file}: hooks.on_event is {given!r}"
    try:
        command = shlex.split(given) if isinstance(given, str) else given
    except ValueError as error:
        raise EatnasError(f"{what}: {error}; expected a command with its arguments") from None
    if not isinstance(command, list) or not command or not all(isinstance(word, str) and word for word in command):
        raise EatnasError(f"{what}; expected a command with its arguments, as a text or as a list of texts")
    if not isinstance(events, list) or not events or any(event not in HOOK_EVENTS for event in events):
        raise EatnasError(f"{file}: hooks.events is {events!r}; expected a list of {', '.join(HOOK_EVENTS)}")
    return Hooks(tuple(command), tuple(events))


def _section(file: Path, name: str, known: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EatnasError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    section = _mapping(tree, f"{file}", SECTIONS).get(name)
    return _mapping(section, f"{file}: {name}", known)


def _mapping(given: Any, what: str, known: tuple[str, ...]) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise EatnasError(f"{what} is {given!r}; expected keys of {', '.join(known)}")
    unknown = [key for key in given if key not in known]
    if unknown:
        raise EatnasError(f"{what}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    return given


def _bytes(given: object, what: str) -> int:
    """A size as a number or as a text with a unit: 20000000000, 20GB, 1.5 TB."""
    match = _SIZE.fullmatch(str(given).strip())
    size = 0 if match is None else int(float(match[1]) * _UNITS[match[2].lower()])
    if size <= 0:
        raise EatnasError(f"{what} is {given!r}; expected a number of bytes above 0, or one like 500MB, 20GB, 1.5TB")
    return size
