"""Final models on several devices: an interruption changes no bits, and no rank waits for a failed rank."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest

from eatnas_db.domain.states import FailureKind
from eatnas_protocol.messages import Assign, Checkpointed, EpochDone, Failed, Report
from eatnas_training import loop
from support.trainings import (
    MakeAssignment,
    assert_same_bits,
    failed,
    no_request,
    released_in_training,
    run_training,
)

METHODS: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "clip_norm": 1.0,
    "ema_decay": 0.9,
    "cutmix": 1.0,
    "random_erasing": 0.5,
    "stochastic_depth": 0.2,
    "dropout": 0.2,
}


def on_two(assignment: MakeAssignment, **fields: Any) -> Assign:
    return replace(assignment(devices=2, **fields), final_model=True)


def ranks() -> list[psutil.Process]:
    children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in children if "eatnas_training.rank" in child.cmdline()]


@pytest.mark.parametrize(
    ("recipe", "batches"),
    [
        pytest.param(METHODS, 7, marks=pytest.mark.slow, id="all methods"),
        pytest.param({}, 2, marks=pytest.mark.soak, id="search recipe"),
    ],
)
def test_two_ranks_resume_with_the_same_bits(assignment: MakeAssignment, recipe: dict[str, Any], batches: int) -> None:
    uninterrupted = run_training(on_two(assignment, **recipe))
    released = released_in_training(on_two(assignment, attempt=2, **recipe), batches)
    saved = released.only(Checkpointed)
    assert (saved.epoch, saved.batch) == divmod(batches, 5)
    resumed = run_training(on_two(assignment, attempt=3, checkpoint_folder=released.folder, **recipe))
    assert_same_bits(uninterrupted, resumed)
    assert ranks() == []


def last_report(assign: Assign, disturb: Callable[[psutil.Process], object], **options: Any) -> Report:
    """Return the last report of a training whose rank 1 is disturbed before the second epoch."""
    for report in filter(None, loop.train(assign, no_request, **options)):
        if isinstance(report, EpochDone):
            (rank,) = ranks()
            disturb(rank)
    return report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal_number", "kind", "words"),
    [
        (signal.SIGKILL, FailureKind.LOST, "rank 1 was killed by SIGKILL in a step"),
        (signal.SIGSEGV, FailureKind.SIGNAL, "rank 1 was killed by SIGSEGV in a step"),
        (signal.SIGSTOP, FailureKind.LOST, "rank 1 was suspended in a step"),
    ],
)
def test_rank_that_dies_or_freezes_ends_the_attempt(
    assignment: MakeAssignment, signal_number: int, kind: FailureKind, words: str
) -> None:
    last = last_report(on_two(assignment), lambda rank: rank.send_signal(signal_number), step_seconds=3.0)
    assert isinstance(last, Failed)
    assert (last.kind, last.message) == (kind, words)
    assert ranks() == []


@pytest.mark.slow
def test_rank_without_memory_ends_the_attempt(assignment: MakeAssignment) -> None:
    data = {"name": "digits", "resolution": 64, "train_images": 256, "validation_images": 100}
    task = {"resolution": 64, "channels": 1, "classes": 10}

    def take_memory(rank: psutil.Process) -> None:
        rank.rlimit(resource.RLIMIT_AS, (rank.memory_info().vms, resource.RLIM_INFINITY))

    last = last_report(replace(on_two(assignment, data=data), task=task), take_memory)
    assert isinstance(last, Failed)
    assert last.kind == FailureKind.OUT_OF_MEMORY
    assert last.message.startswith("rank 1: ")
    assert ranks() == []


def test_batch_that_is_too_small_for_the_devices_is_refused(assignment: MakeAssignment) -> None:
    failure = failed(run_training(on_two(assignment, batch_size=3)))
    assert failure.message == "2 devices need batches of at least 4 images, but a batch has 3; use fewer devices"
