"""Parse the options and environment variables about devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_db.domain.suggestions import did_you_mean
from eatnas_db.errors import ConflictError, NotFoundError

UNSEEN_PROCESSES: Final = "unseen"
"""The value of `--allow` that permits memory in use by processes that the driver does not report."""


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """The devices that the user permits, by UUID."""

    included: frozenset[str] | None = None
    """The devices that `--devices` names; None without this option."""
    excluded: frozenset[str] = frozenset()
    visible: frozenset[str] | None = None
    """The GPUs that CUDA_VISIBLE_DEVICES lists; None if the variable is not set."""
    has_ambiguous_indices: bool = False
    """Whether CUDA_VISIBLE_DEVICES contains indices whose order may differ between CUDA and the driver."""
    has_mig_slices: bool = False
    """Whether CUDA_VISIBLE_DEVICES lists slices of GPUs in MIG mode."""
    max_per_device: int | None = None
    allowed: frozenset[str] = frozenset()
    """The users and programs whose processes do not make a GPU unavailable."""
    use_cpu: bool = True
    """Whether workers train on the CPU even if `--devices` does not name it."""


def parse_options(
    snapshots: Sequence[DeviceSnapshot],
    *,
    devices: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_per_device: int | None = None,
    allowed: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> DeviceOptions:
    """Parse lists of devices: indices, UUIDs, beginnings of UUIDs and `cpu`, separated by commas.

    Raises `NotFoundError` for an unknown device and `ConflictError` for options that permit no device.
    """
    environment = environment or {}
    included = frozenset(find_device(word, snapshots, "--devices") for word in _split(devices))
    excluded = frozenset(find_device(word, snapshots, "--exclude") for word in _split(exclude))
    if both := included & excluded:
        raise ConflictError(f"both --devices and --exclude name {', '.join(sorted(both))}")
    if excluded >= {device.uuid for device in snapshots}:
        raise ConflictError("--exclude leaves no device")
    if max_per_device is not None and max_per_device < 1:
        raise ConflictError(f"--max-per-device {max_per_device}: must be at least 1")
    no_gpu_left = all(device.kind == CPU or device.uuid in excluded for device in snapshots)
    return DeviceOptions(
        included=included or None,
        excluded=excluded,
        visible=_visible_uuids(snapshots, environment),
        has_ambiguous_indices=_has_ambiguous_indices(snapshots, environment),
        has_mig_slices="MIG-" in environment.get("CUDA_VISIBLE_DEVICES", ""),
        max_per_device=max_per_device,
        allowed=frozenset(_split(allowed)),
        use_cpu=no_gpu_left or _hides_all_gpus(environment),
    )


def find_device(word: str, snapshots: Sequence[DeviceSnapshot], option: str) -> str:
    """Return the UUID of a device; `word` is an index, a UUID, the beginning of a UUID, or `cpu`.

    `option` is the name of the option that error messages give. Raises `NotFoundError`, which suggests the most similar
    name.
    """
    matches = _matching_uuids(word, snapshots)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise NotFoundError(f"{option} {word}: matches {', '.join(matches)}; give more of the UUID")
    indices = [device.index for device in snapshots if device.index is not None]
    if word.isdigit() and indices:
        hint = f"; did you mean {min(indices, key=lambda index: (abs(index - int(word)), index))}?"
    else:
        hint = did_you_mean(word, [device.uuid for device in snapshots])
    known = ", ".join(CPU if device.kind == CPU else f"{device.index} ({device.uuid})" for device in snapshots)
    raise NotFoundError(f"{option} {word}: no such device{hint} (known: {known})")


def _split(texts: Sequence[str]) -> list[str]:
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def _matching_uuids(word: str, snapshots: Sequence[DeviceSnapshot]) -> list[str]:
    exact = [device.uuid for device in snapshots if word in (device.uuid, str(device.index))]
    return exact or [device.uuid for device in snapshots if device.kind != CPU and device.uuid.startswith(word)]


def _has_ambiguous_indices(snapshots: Sequence[DeviceSnapshot], environment: Mapping[str, str]) -> bool:
    """Return whether CUDA_VISIBLE_DEVICES contains indices that are ambiguous, because CUDA may sort GPUs by speed."""
    words = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or not any(word.strip().isdigit() for word in words):
        return False
    return len({device.name for device in snapshots if device.kind != CPU and device.error is None}) > 1


def _hides_all_gpus(environment: Mapping[str, str]) -> bool:
    """Return whether CUDA_VISIBLE_DEVICES has one of the values with which users and Slurm hide all GPUs."""
    return environment.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")


def _visible_uuids(snapshots: Sequence[DeviceSnapshot], environment: Mapping[str, str]) -> frozenset[str] | None:
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    visible: list[str] = []
    for word in text.split(","):
        matches = _matching_uuids(word.strip(), snapshots) if word.strip() else []
        if len(matches) != 1:
            # CUDA itself ignores the list from the first invalid entry on.
            break
        visible += matches
    return frozenset(visible)
