"""Decide whether one more worker may start on a device, and why not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from eatnas_daemon.devices.model import CPU, UNEXPLAINED_BYTES, DeviceSnapshot, Holder, Identity, in_gib
from eatnas_daemon.devices.options import UNSEEN, DeviceOptions

BUSY_PERCENT: Final = 20


class Cause(StrEnum):
    """What a verdict rests on."""

    FREE = "free"
    BROKEN = "broken"
    UNWANTED = "unwanted"
    REFUSED = "refused"
    LOCKED = "locked"
    FOREIGN = "foreign"
    FULL = "full"
    BUSY = "busy"
    MEMORY = "memory"
    WAITING = "waiting"
    PAUSED = "paused"
    ASIDE = "aside"


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether one more worker may start on a device, and why, in words."""

    free: bool
    reason: str
    cause: Cause = Cause.FREE
    foreign: tuple[Holder, ...] = ()


def judge(
    probed: DeviceSnapshot,
    wishes: DeviceOptions,
    own_pids: Collection[int] = (),
    needs_bytes: int = 0,
    *,
    own_bytes: int | None = None,
) -> Availability:
    """Whether one more worker of ours may start there. `own_pids` are those of our workers on this device.

    `own_bytes` is what these say they hold; it counts where the driver cannot tell.
    """
    unwanted = _unwanted(probed, wishes)
    if unwanted is not None:
        return Availability(False, unwanted, Cause.UNWANTED)
    invisible = _invisible(probed, wishes)
    if invisible is not None and not (probed.mig and wishes.parts):
        return Availability(False, invisible, Cause.UNWANTED)
    if probed.trouble is not None:
        return Availability(False, probed.trouble, Cause.BROKEN)
    if probed.mig:
        off = f"`nvidia-smi -i {probed.uuid} -mig 0` turns it off"
        return Availability(False, f"it is in MIG mode, which is not supported yet; {off}", Cause.REFUSED)
    if probed.prohibited:
        return Availability(
            False, "an administrator has shut it for computing (compute mode prohibited)", Cause.REFUSED
        )
    if probed.locked_by is not None:
        return Availability(False, f"another eatnas-db daemon holds it ({probed.locked_by})", Cause.LOCKED)
    if probed.kind != CPU:
        taken = _taken(probed, wishes, own_pids, own_bytes)
        if taken is not None:
            return taken
    if probed.exclusive and own_pids:
        return Availability(False, "it takes one process at a time (compute mode exclusive)", Cause.FULL)
    limit = wishes.max_per_device
    if limit is not None and len(own_pids) >= limit:
        return Availability(False, f"--max-per-device {limit} is reached", Cause.FULL)
    if needs_bytes > probed.free_bytes:
        needed = f"{in_gib(needs_bytes)} of memory are needed and {in_gib(probed.free_bytes)} are free"
        return Availability(False, needed, Cause.MEMORY)
    return Availability(True, _praise(probed))


def _unwanted(probed: DeviceSnapshot, wishes: DeviceOptions) -> str | None:
    if probed.uuid in wishes.excluded:
        return "--exclude names it"
    if wishes.chosen is not None:
        return None if probed.uuid in wishes.chosen else "--devices does not name it"
    if probed.kind == CPU and not wishes.processor:
        return "there are GPUs; `--devices` has to name `cpu` for it to train too"
    return None


def _invisible(probed: DeviceSnapshot, wishes: DeviceOptions) -> str | None:
    if probed.kind == CPU or wishes.chosen is not None:
        return None
    if wishes.numbered:
        return (
            "CUDA_VISIBLE_DEVICES has numbers, which are not the driver's where GPUs are not alike: "
            "give UUIDs there or with `--devices`, or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
    if wishes.visible is not None and probed.uuid not in wishes.visible:
        return "CUDA_VISIBLE_DEVICES leaves it out"
    return None


def _taken(
    probed: DeviceSnapshot, wishes: DeviceOptions, own_pids: Collection[int], own_bytes: int | None
) -> Availability | None:
    computing = [one for one in probed.holders if one.kind == "compute" and one.pid not in own_pids]
    told = [one for one in computing if one.identity is not None and not one.is_shared]
    foreign = tuple(one for one in told if not _is_allowed(one, wishes))
    if foreign:
        more = f", and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        return Availability(False, f"{foreign[0]} computes on it{more}", Cause.FOREIGN, foreign)
    blindness = probed.blindness
    if blindness is not None and UNSEEN not in wishes.allowed:
        others = probed.used_bytes - _our_bytes(probed, own_pids, own_bytes)
        if others > UNEXPLAINED_BYTES * (1 + len(own_pids)):
            ours = ", more than our workers hold" if own_pids else ""
            used = f"{in_gib(probed.used_bytes)} are in use{ours}"
            anyway = f"`--allow {UNSEEN}` uses it all the same"
            return Availability(False, f"{blindness}; so memory decides, and {used} ({anyway})", Cause.FOREIGN)
    # What is ours, or is allowed, keeps it busy rightly.
    excused = bool(own_pids) or (UNSEEN in wishes.allowed if blindness is not None else bool(computing))
    if probed.utilisation is not None and probed.utilisation > BUSY_PERCENT and not excused:
        return Availability(False, f"it is {probed.utilisation}% busy, and not with anything of ours", Cause.BUSY)
    return None


def _our_bytes(probed: DeviceSnapshot, own_pids: Collection[int], own_bytes: int | None) -> int:
    if own_bytes is not None:
        return own_bytes
    return sum(one.used_bytes or 0 for one in probed.holders if one.pid in own_pids)


def _is_allowed(holder: Holder, wishes: DeviceOptions) -> bool:
    who = holder.identity or Identity()
    return bool({who.owner, who.name} & wishes.allowed)


def _praise(probed: DeviceSnapshot) -> str:
    memory = f"{in_gib(probed.free_bytes)} of {in_gib(probed.total_bytes)} of memory free"
    if probed.kind == CPU:
        return f"{probed.cores} cores, load {probed.load:.1f}, {memory}"
    busy = "" if probed.utilisation is None else f", {probed.utilisation}% busy"
    blind = "" if probed.blindness is None else f"; {probed.blindness}, so memory decides"
    errors = f"; {probed.memory_errors} memory errors since the driver was loaded" if probed.memory_errors else ""
    return memory + busy + blind + errors
