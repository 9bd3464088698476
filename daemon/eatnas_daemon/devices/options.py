"""Parse what the user and the environment say about devices."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_db.errors import ConflictError, NotFoundError

UNSEEN: Final = "unseen"
"""What `--allow` calls memory in use by processes that the driver does not show."""


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What the user has said about devices. They are known by UUID."""

    chosen: frozenset[str] | None = None
    excluded: frozenset[str] = frozenset()
    visible: frozenset[str] | None = None
    """What CUDA_VISIBLE_DEVICES leaves, as a batch system sets it."""
    numbered: bool = False
    """Whether it has numbers, and those of CUDA may not be the driver's."""
    parts: bool = False
    """Whether it names parts of devices in MIG mode."""
    max_per_device: int | None = None
    allowed: frozenset[str] = frozenset()
    """Users and programs that do not count as foreign."""
    processor: bool = True
    """Whether the processor trains too where it was not named."""


def wishes_of(
    probed: Sequence[DeviceSnapshot],
    *,
    devices: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_per_device: int | None = None,
    allowed: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> DeviceOptions:
    """Understand what the user has said: indices, UUIDs, their beginnings, or `cpu`, separated by commas.

    Raises `NotFoundError` for a device that is not there, `ConflictError` for wishes that leave nothing.
    """
    chosen = frozenset(named(word, probed, "--devices") for word in _words(devices))
    excluded = frozenset(named(word, probed, "--exclude") for word in _words(exclude))
    if both := chosen & excluded:
        raise ConflictError(f"both --devices and --exclude name {', '.join(sorted(both))}")
    if excluded >= {device.uuid for device in probed}:
        raise ConflictError("--exclude leaves no device")
    if max_per_device is not None and max_per_device < 1:
        raise ConflictError(f"--max-per-device {max_per_device}: at least 1")
    return DeviceOptions(
        chosen=chosen or None,
        excluded=excluded,
        visible=_visible(probed, environment or {}),
        numbered=_numbered(probed, environment or {}),
        parts="MIG-" in (environment or {}).get("CUDA_VISIBLE_DEVICES", ""),
        max_per_device=max_per_device,
        allowed=frozenset(_words(allowed)),
        processor=all(device.kind == CPU or device.uuid in excluded for device in probed) or _hidden(environment or {}),
    )


def _words(texts: Sequence[str]) -> list[str]:
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def _matching(word: str, probed: Sequence[DeviceSnapshot]) -> list[str]:
    exact = [device.uuid for device in probed if word in (device.uuid, str(device.index))]
    return exact or [device.uuid for device in probed if device.kind != CPU and device.uuid.startswith(word)]


def named(word: str, probed: Sequence[DeviceSnapshot], option: str) -> str:
    """The UUID of the device that a user calls so; `option`: where. Raises `NotFoundError` that names the nearest."""
    found = _matching(word, probed)
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFoundError(f"{option} {word}: that is how {', '.join(found)} begin; write more of it")
    indices = [device.index for device in probed if device.index is not None]
    if word.isdigit() and indices:
        hint = f"; did you mean {min(indices, key=lambda index: (abs(index - int(word)), index))}?"
    else:
        near = difflib.get_close_matches(word, [device.uuid for device in probed], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
    known = ", ".join(CPU if device.kind == CPU else f"{device.index} ({device.uuid})" for device in probed)
    raise NotFoundError(f"{option} {word}: there is no such device{hint} (known: {known})")


def _numbered(probed: Sequence[DeviceSnapshot], environment: Mapping[str, str]) -> bool:
    """Whether CUDA_VISIBLE_DEVICES has numbers where CUDA, which goes by speed, may have others than the driver."""
    words = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or not any(word.strip().isdigit() for word in words):
        return False
    return len({device.name for device in probed if device.kind != CPU and device.trouble is None}) > 1


def _hidden(environment: Mapping[str, str]) -> bool:
    """Whether CUDA_VISIBLE_DEVICES says that there is to be no GPU, as users and Slurm write it."""
    return environment.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")


def _visible(probed: Sequence[DeviceSnapshot], environment: Mapping[str, str]) -> frozenset[str] | None:
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    visible: list[str] = []
    for word in text.split(","):
        found = _matching(word.strip(), probed) if word.strip() else []
        if len(found) != 1:
            # CUDA itself reads no further than the first that it does not know.
            break
        visible += found
    return frozenset(visible)
