from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eatnas_db.domain.messages import (
    Assign,
    Checkpointed,
    EpochDone,
    Failed,
    Finished,
    Progress,
    Released,
    Up,
)
from eatnas_training import checkpoint, loop
from eatnas_training.conversation import Wanted

Make = Callable[..., Assign]


def go_on() -> Wanted:
    return Wanted.GO_ON


def after(calls: int, wish: Wanted) -> Callable[[], Wanted]:
    """Wants `wish` at that many calls and ever after, a checkpoint only once."""
    count = 0

    def wanted() -> Wanted:
        nonlocal count
        count += 1
        once = wish is Wanted.CHECKPOINT
        return wish if (count == calls if once else count >= calls) else Wanted.GO_ON

    return wanted


def train(assign: Assign, wanted: Callable[[], Wanted] = go_on, **clocks: Any) -> list[Up]:
    return list(loop.train(assign, wanted, **clocks))


def rows(reports: Iterable[Up]) -> list[EpochDone]:
    """The epochs' figures without what a clock or an attempt decides."""
    return [replace(report, attempt=0, seconds=0, ended_at=0) for report in reports if isinstance(report, EpochDone)]


def weights(reports: Iterable[Up]) -> dict[str, Any]:
    last = [report for report in reports if isinstance(report, Checkpointed)][-1]
    return checkpoint.unpack(checkpoint.read(Path(last.path), last.digest))


def assert_same_bits(one: list[Up], other: list[Up]) -> None:
    assert isinstance(one[-1], Finished)
    assert isinstance(other[-1], Finished)
    assert rows(one) == rows(other)
    first, second = weights(one), weights(other)
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    momenta = (state["optimizer"]["state"] for state in (first, second))
    for a, b in zip(*(momentum.values() for momentum in momenta), strict=True):
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])


def test_a_training_reports_every_epoch_and_ends_with_the_last_ones_figures(assignment: Make) -> None:
    reports = train(assignment())
    done = rows(reports)
    assert [row.epoch for row in done] == [0, 1]
    last = reports[-1]
    assert isinstance(last, Finished)
    assert (last.val_accuracy, last.val_loss) == (done[-1].val_accuracy, done[-1].val_loss)
    assert last.device_seconds > 0


def test_digits_are_learned(assignment: Make) -> None:
    data = {"name": "digits"}
    last = train(assignment(data=data, epochs=5, batch_size=32, augment="none"))[-1]
    assert isinstance(last, Finished)
    assert last.val_accuracy > 0.5


def test_two_runs_have_the_same_bits_even_after_another_network(assignment: Make) -> None:
    first = train(assignment())
    other_code: list[list[int | float]] = [[2, 2, 1, 1, 1.0]] * 7
    train(assignment(candidate=2, code=other_code, epochs=1, seed=9))
    torch.rand(3)
    assert_same_bits(first, train(assignment(attempt=2)))


@pytest.mark.parametrize("calls", [1, 3, 5, 6, 8])
def test_a_resumed_training_has_the_same_bits_wherever_it_stopped(assignment: Make, calls: int) -> None:
    whole = train(assignment())
    stopped = train(assignment(attempt=2), after(calls, Wanted.RELEASE))
    assert isinstance(stopped[-1], Released)
    saved = stopped[-2]
    assert isinstance(saved, Checkpointed)
    resumed = train(assignment(attempt=3, resume=saved.path))
    assert_same_bits(whole, resumed)
    kept = [report for report in stopped if isinstance(report, EpochDone)]
    again = [report for report in resumed if isinstance(report, EpochDone)][: len(kept)]
    assert again == [replace(row, attempt=3) for row in kept]


FRESH = """
import json, sys
from dataclasses import asdict
from eatnas_db.domain.messages import Assign
from eatnas_training import loop
from eatnas_training.conversation import Wanted
for report in loop.train(Assign(**json.load(sys.stdin)), lambda: Wanted.GO_ON):
    print(json.dumps([type(report).__name__, asdict(report)]))
"""


@pytest.mark.slow
def test_a_fresh_process_goes_on_inside_an_epoch_with_the_same_bits(assignment: Make) -> None:
    whole = train(assignment())
    stopped = train(assignment(attempt=2), after(3, Wanted.RELEASE))
    saved = stopped[-2]
    assert isinstance(saved, Checkpointed)
    assert (saved.epoch, saved.batch) == (0, 2)
    answer = subprocess.run(
        [sys.executable, "-c", FRESH],
        input=json.dumps(asdict(assignment(attempt=3, resume=saved.path))),
        capture_output=True,
        text=True,
        check=True,
    )
    kinds = {kind.__name__: kind for kind in (Checkpointed, EpochDone, Finished)}
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    assert_same_bits(whole, [kinds[kind](**report) for kind, report in lines if kind in kinds])


def test_a_checkpoint_that_is_asked_for_changes_no_bits(assignment: Make) -> None:
    asked = train(assignment(attempt=2), after(3, Wanted.CHECKPOINT))
    assert len([report for report in asked if isinstance(report, Checkpointed)]) == 2
    assert_same_bits(train(assignment()), asked)


def test_checkpoints_come_by_the_clock_and_progress_twice_a_second(assignment: Make) -> None:
    ticks = iter(range(10**6))
    reports = train(assignment(checkpoint_seconds=0.5), monotonic=lambda: next(ticks) * 0.05)
    saved = [report for report in reports if isinstance(report, Checkpointed)]
    progress = [report for report in reports if isinstance(report, Progress)]
    assert len(saved) >= 3
    assert len({path.path for path in saved}) == len(saved)
    assert 2 <= len(progress) < 8


@pytest.mark.parametrize("damage", ["missing", "garbage", "another"])
def test_an_unusable_checkpoint_is_no_failure_but_a_fresh_start(assignment: Make, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "bad.ckpt"
    if damage == "garbage":
        path.write_bytes(b"not a checkpoint")
    elif damage == "another":
        stopped = train(assignment(candidate=2, seed=8), after(2, Wanted.RELEASE))
        assert isinstance(stopped[-2], Checkpointed)
        path = Path(stopped[-2].path)
    whole = train(assignment())
    assert_same_bits(whole, train(assignment(attempt=2, resume=str(path))))


def test_a_finished_checkpoint_only_repeats_its_reports(assignment: Make) -> None:
    whole = train(assignment())
    again = train(assignment(attempt=2, resume=str(weights_path(whole))))
    assert rows(again) == rows(whole)
    assert not [report for report in again if isinstance(report, Progress)]


def weights_path(reports: list[Up]) -> Path:
    return Path([report for report in reports if isinstance(report, Checkpointed)][-1].path)


def test_cancel_stops_without_a_checkpoint(assignment: Make) -> None:
    reports = train(assignment(), after(2, Wanted.CANCEL))
    assert isinstance(reports[-1], Released)
    assert not [report for report in reports if isinstance(report, Checkpointed)]


def test_a_loss_that_leaves_the_numbers_is_diverged(assignment: Make) -> None:
    last = train(assignment(learning_rate=100.0, weight_decay=1.0, epochs=60, warmup=0.0))[-1]
    assert isinstance(last, Failed)
    assert last.kind == "diverged"


def test_data_that_cannot_be_read_and_other_mistakes_have_their_kinds(assignment: Make) -> None:
    missing = train(assignment(data={"name": "MNIST", "root": "/nowhere"}))[-1]
    assert isinstance(missing, Failed)
    assert missing.kind == "unreadable_data"
    wrong_code = train(assignment(code=[[0, 0, 0, 0, 1.0]]))[-1]
    assert isinstance(wrong_code, Failed)
    assert wrong_code.kind == "exception"
    assert "Traceback" in wrong_code.traceback


def test_out_of_memory_has_its_kind(assignment: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")

    monkeypatch.setattr("eatnas_training.loop.cross_entropy", no_memory)
    last = train(assignment())[-1]
    assert isinstance(last, Failed)
    assert last.kind == "out_of_memory"
    assert not last.fatal


def test_a_train_part_smaller_than_a_batch_is_one_batch(assignment: Make) -> None:
    data = {"name": "digits", "train_images": 10, "validation_images": 5}
    assert isinstance(train(assignment(data=data))[-1], Finished)
