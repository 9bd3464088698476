"""Divide the time of a device among the trainings that use it at the same time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from eatnas_daemon.workers.running_training import RunningTraining
from eatnas_daemon.workers.slots import Slot

STEP_PHASES: Final = frozenset({"training", "validating", "testing", "restoring"})
"""The phases in which a worker computes on its device."""


@dataclass(frozen=True, slots=True)
class _Demand:
    """A training, and the maximum number of units of its device that it can use: 1 for a GPU, or the threads of its
    recipe.
    """

    training: RunningTraining
    units: int
    pid: int
    """The process of the training. The trainings of one process take turns, and each training counts only its own
    turns.
    """

    @property
    def in_steps(self) -> bool:
        return self.training.phase in STEP_PHASES


def share_device_time(slots: Iterable[Slot], seconds: float, cores: int) -> None:
    """Give each training its share of the last `seconds` of its device.

    Trainings that compute steps share a GPU equally, so that their device seconds add up to wall time. On a CPU with
    `cores` cores, each training uses as many cores as it has threads. Its share is below 1 only if there are more
    threads than cores.
    """
    by_device: defaultdict[str, list[_Demand]] = defaultdict(list)
    capacity: dict[str, int] = {}
    for slot in slots:
        training = slot.training
        if training is None or not slot.busy:
            continue
        units = 1 if slot.on_gpu else slot.device.cores or cores
        threads = int(training.assignment.message.training.get("threads", 1))
        pid = 0 if slot.worker is None else slot.worker.process.pid
        by_device[slot.device.uuid].append(_Demand(training, min(threads, units), pid))
        capacity[slot.device.uuid] = units
    for uuid, demands in by_device.items():
        used = {demand.pid: demand.units for demand in demands if demand.in_steps}
        for demand in demands:
            # A training that computes no step now gets a share too, because it may compute steps before the next call.
            total = sum({demand.pid: demand.units, **used}.values())
            share = min(1.0, capacity[uuid] / total)
            demand.training.time.observe(seconds if demand.in_steps else 0.0, share)
