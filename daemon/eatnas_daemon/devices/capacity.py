"""Count the workers that this machine has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eatnas_daemon.devices.availability import Cause, judge
from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_daemon.devices.options import DeviceOptions, wishes_of


def cpu_slots(probed: DeviceSnapshot, own_workers: int = 0, needs_bytes: int = 0) -> int:
    """How many workers the processor has room for: a core each beside what others load it with, and memory."""
    others = max(0.0, probed.load - own_workers)
    by_cores = max(1, probed.cores - int(others))
    if needs_bytes <= 0:
        return by_cores
    return min(by_cores, own_workers + probed.free_bytes // needs_bytes)


def usable_gpus(seen: Sequence[DeviceSnapshot], wishes: DeviceOptions) -> int:
    """How many GPUs a daemon may ever use; those that are somebody else's now will be free again."""
    never = {Cause.UNWANTED, Cause.BROKEN, Cause.REFUSED}
    return sum(one.kind != CPU and judge(one, wishes).cause not in never for one in seen)


def slots_here(seen: Sequence[DeviceSnapshot], environment: Mapping[str, str]) -> int:
    """How many trainings a daemon would have here at a time: one on each GPU it may use, or one on each core."""
    wishes = wishes_of(seen, environment=environment)
    return usable_gpus(seen, wishes) or max(1, seen[-1].cores if wishes.processor else 0)


def first_free(seen: Sequence[DeviceSnapshot], environment: Mapping[str, str]) -> DeviceSnapshot:
    """Where a training would begin now: on the first GPU that is free, or else on the processor, which comes last."""
    wishes = wishes_of(seen, environment=environment)
    return next((one for one in seen if judge(one, wishes).free), seen[-1])
