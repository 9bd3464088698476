"""Find slots for trainings on several devices. Each process of such a training takes a slot on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

from eatnas_daemon.workers.slots import Slot


def without_taken(idle: Sequence[Slot], slots: Sequence[Slot]) -> list[Slot]:
    """Return the idle slots that are not taken by a process of a running training."""
    taken = sum(_count_taken(slot, slots) - 1 for slot in slots if slot.busy and not slot.on_gpu)
    return _without(idle, taken)


def count_needed(devices: int, slots: Sequence[Slot]) -> int:
    """Return the number of slots that a training on `devices` devices takes.

    The training takes a slot for each device, or all slots if there are fewer slots than devices. Slots without a
    worker do not count, because they may stay empty.
    """
    staffed = sum(slot.worker is not None and not slot.on_gpu for slot in slots)
    return max(1, min(devices, staffed))


def split_for_training(idle: Sequence[Slot], devices: int, slots: Sequence[Slot]) -> tuple[Slot | None, list[Slot]]:
    """Return the slot for a training on several devices, and the idle slots that are left for other trainings.

    While too few slots are idle, return None and leave no slot on the CPU for other trainings. Otherwise, a search with
    many short trainings could take every slot that becomes idle, and the training would never start.
    """
    own = [slot for slot in idle if not slot.on_gpu]
    needed = count_needed(devices, slots)
    if len(own) < needed:
        return None, [slot for slot in idle if slot.on_gpu]
    return own[0], [slot for slot in idle if slot not in own[:needed]]


def _count_taken(slot: Slot, slots: Sequence[Slot]) -> int:
    if slot.training is None:
        return 1
    return count_needed(slot.training.assignment.message.training.get("devices", 1), slots)


def _without(idle: Sequence[Slot], taken: int) -> list[Slot]:
    left = []
    for slot in idle:
        if taken > 0 and not slot.on_gpu:
            taken -= 1
        else:
            left.append(slot)
    return left
