"""Inspect the slots of a supervisor."""

from __future__ import annotations

from eatnas_daemon.workers.slots import Slot
from eatnas_db.leases import LeasedCandidate
from eatnas_protocol.messages import Progress


def candidate_of(slot: Slot) -> int | None:
    """Return the id of the candidate that a slot trains."""
    return None if slot.training is None else slot.training.assignment.leased.token.candidate


def progress_of(slot: Slot) -> Progress | None:
    """Return the last progress message of a slot's training."""
    return None if slot.training is None else slot.training.progress


def is_training(slot: Slot) -> bool:
    """Return whether a slot's worker is computing training steps rather than loading or saving."""
    return slot.training is not None and slot.training.phase == "training"


def running_pid(slot: Slot) -> int | None:
    """Return the pid of a slot's worker, or None if the worker has ended."""
    return None if slot.worker is None or slot.worker.ended else slot.worker.process.pid


def leased_by(slot: Slot) -> LeasedCandidate | None:
    """Return the candidate that a slot trains, with its lease."""
    return None if slot.training is None else slot.training.assignment.leased
