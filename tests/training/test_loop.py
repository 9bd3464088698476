from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from eatnas_protocol.messages import Checkpointed, EpochDone, Finished, Phase, Progress, Released, Report, Resumed
from eatnas_training import loop
from eatnas_training.failures import DivergedError
from eatnas_training.worker_protocol import StopRequest
from support.trainings import (
    MakeAssignment,
    Reports,
    after_calls,
    assert_same_bits,
    epoch_metrics,
    failed,
    finished,
    no_request,
    run_training,
)


class TickingClock:
    """A clock that advances by 50 ms each time it is read."""

    def __init__(self) -> None:
        self.ticks = 0

    def __call__(self) -> float:
        self.ticks += 1
        return self.ticks * 0.05


def test_training_reports_every_epoch_and_the_last_metrics(assignment: MakeAssignment) -> None:
    reports = run_training(assignment())
    epochs = epoch_metrics(reports)
    assert [report.epoch for report in epochs] == [0, 1]
    last = finished(reports)
    assert (last.accuracy, last.loss) == (epochs[-1].val_accuracy, epochs[-1].val_loss)
    assert last.device_seconds > 0


@pytest.mark.slow
def test_network_learns_the_digits(assignment: MakeAssignment) -> None:
    recipe = {"data": {"name": "digits"}, "epochs": 5, "batch_size": 32, "augment": "none"}
    assert finished(run_training(assignment(**recipe))).accuracy > 0.5


def test_training_set_smaller_than_a_batch_is_one_batch(assignment: MakeAssignment) -> None:
    data = {"name": "digits", "train_images": 10, "validation_images": 5}
    finished(run_training(assignment(data=data)))


@pytest.mark.slow
def test_bits_do_not_depend_on_earlier_trainings(assignment: MakeAssignment) -> None:
    first = run_training(assignment())
    other_code: list[list[int | float]] = [[2, 2, 1, 1, 1.0]] * 7
    run_training(assignment(candidate=2, code=other_code, epochs=1, seed=9))
    torch.rand(3)
    assert_same_bits(first, run_training(assignment(attempt=2)))


@pytest.mark.parametrize("calls", [1, 3, 5, 6, 8])
def test_resumed_training_has_the_same_bits(assignment: MakeAssignment, calls: int) -> None:
    uninterrupted = run_training(assignment())
    released = run_training(assignment(attempt=2), after_calls(calls, StopRequest.RELEASE))
    assert isinstance(released[-1], Released)
    assert isinstance(released[-2], Checkpointed)
    resumed = run_training(assignment(attempt=3, checkpoint_folder=released.folder))
    assert_same_bits(uninterrupted, resumed)
    before = released.of(EpochDone)
    assert resumed.of(EpochDone)[: len(before)] == [replace(report, attempt=3) for report in before]


NEW_PROCESS = """
import json, sys
from dataclasses import asdict
from eatnas_protocol.messages import Assign
from eatnas_training import loop
from eatnas_training.worker_protocol import StopRequest
for report in filter(None, loop.train(Assign(**json.load(sys.stdin)), lambda: StopRequest.NONE)):
    print(json.dumps([type(report).__name__, asdict(report)]))
"""


@pytest.mark.slow
def test_new_process_resumes_within_an_epoch_with_the_same_bits(assignment: MakeAssignment) -> None:
    uninterrupted = run_training(assignment())
    released = run_training(assignment(attempt=2), after_calls(3, StopRequest.RELEASE))
    saved = released.only(Checkpointed)
    assert (saved.epoch, saved.batch) == (0, 2)
    answer = subprocess.run(
        [sys.executable, "-c", NEW_PROCESS],
        input=json.dumps(asdict(assignment(attempt=3, checkpoint_folder=released.folder))),
        capture_output=True,
        text=True,
        check=True,
    )
    kinds = {kind.__name__: kind for kind in (Checkpointed, EpochDone, Finished)}
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    resumed = Reports((kinds[kind](**report) for kind, report in lines if kind in kinds), released.folder)
    assert_same_bits(uninterrupted, resumed)


def test_checkpoints_and_progress_follow_the_clock(assignment: MakeAssignment) -> None:
    reports = run_training(assignment(checkpoint_seconds=0.5), monotonic=TickingClock())
    paths = [saved.path for saved in reports.of(Checkpointed)]
    assert len(set(paths)) == len(paths) >= 3
    assert 2 <= len(reports.of(Progress)) < 8
    assert_same_bits(run_training(assignment()), reports)


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "empty", "other candidate"])
def test_damaged_checkpoint_is_reported_and_the_previous_one_used(assignment: MakeAssignment, damage: str) -> None:
    uninterrupted = run_training(assignment())
    released = run_training(
        assignment(checkpoint_seconds=0.5), after_calls(7, StopRequest.RELEASE), monotonic=TickingClock()
    )
    previous, newest = released.of(Checkpointed)[-2:]
    path = released.last_checkpoint()
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        other = run_training(assignment(seed=8), after_calls(2, StopRequest.RELEASE))
        path.write_bytes(other.last_checkpoint().read_bytes())
    resumed = run_training(assignment(attempt=2, checkpoint_folder=released.folder))
    report = resumed.only(Resumed)
    assert (report.path, report.epoch, report.batch) == (previous.path, previous.epoch, previous.batch)
    assert list(report.damaged) == [newest.path]
    assert_same_bits(uninterrupted, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("split_first", [False, True])
def test_checkpoint_with_other_micro_batches_is_refused(assignment: MakeAssignment, split_first: bool) -> None:
    released = run_training(
        replace(assignment(attempt=1), split_batches=split_first), after_calls(3, StopRequest.RELEASE)
    )
    again = assignment(attempt=2, checkpoint_folder=released.folder)
    reports = run_training(replace(again, split_batches=not split_first))
    assert reports.only(Resumed).path is None
    assert_same_bits(reports, run_training(replace(assignment(), split_batches=not split_first)))


def test_checkpoints_of_ignored_attempts_are_removed(assignment: MakeAssignment) -> None:
    first = run_training(assignment(attempt=1), after_calls(3, StopRequest.RELEASE))
    second = run_training(
        replace(assignment(attempt=2, checkpoint_folder=first.folder), begins_after=1),
        after_calls(2, StopRequest.RELEASE),
    )
    assert second.of(Resumed) == []
    assert not first.last_checkpoint().exists()
    third = run_training(replace(assignment(attempt=3, checkpoint_folder=first.folder), begins_after=1))
    assert third.only(Resumed).path == second.last_checkpoint().name


def test_training_starts_from_scratch_without_a_valid_checkpoint(assignment: MakeAssignment) -> None:
    released = run_training(assignment(), after_calls(3, StopRequest.RELEASE))
    released.last_checkpoint().write_bytes(b"rubbish")
    restarted = run_training(assignment(attempt=2, checkpoint_folder=released.folder))
    report = restarted.only(Resumed)
    assert report.path is None
    assert list(report.damaged) == [released.last_checkpoint().name]
    assert_same_bits(run_training(assignment()), restarted)


def test_final_checkpoint_only_repeats_its_reports(assignment: MakeAssignment) -> None:
    complete = run_training(assignment())
    repeated = run_training(assignment(attempt=2, checkpoint_folder=complete.folder))
    assert epoch_metrics(repeated) == epoch_metrics(complete)
    assert repeated.of(Progress) == []


def test_training_waits_while_the_disk_is_full(assignment: MakeAssignment) -> None:
    uninterrupted = run_training(assignment())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    assign = assignment(attempt=2)
    reports: list[Report] = []
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        for report in filter(None, loop.train(assign, no_request)):
            reports.append(report)
            if [report.phase for report in reports if isinstance(report, Phase)].count("disk full") == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert_same_bits(uninterrupted, Reports(reports, assign.checkpoint_folder))
    assert not list(Path(assign.checkpoint_folder).glob(".*"))


def test_cancel_stops_without_a_checkpoint(assignment: MakeAssignment) -> None:
    reports = run_training(assignment(), after_calls(2, StopRequest.CANCEL))
    assert isinstance(reports[-1], Released)
    assert reports.of(Checkpointed) == []


def test_memory_error_while_restoring_does_not_blame_the_file(
    assignment: MakeAssignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = run_training(assignment(), after_calls(3, StopRequest.RELEASE))
    again = assignment(attempt=2, checkpoint_folder=released.folder)

    def raise_cuda_error(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

    def exhaust_memory(*_: object, **__: object) -> None:
        torch.empty(1 << 50, dtype=torch.uint8)

    for owner, name, fail in ((torch.nn.Module, "load_state_dict", raise_cuda_error), (torch, "load", exhaust_memory)):
        with monkeypatch.context() as without_memory:
            without_memory.setattr(owner, name, fail)
            reports = run_training(again)
        assert reports.of(Resumed) == []
        assert failed(reports).kind == "out_of_memory"
    resumed = run_training(again).only(Resumed)
    assert (resumed.path, resumed.damaged) == (released.last_checkpoint().name, {})


def test_diverged_state_is_not_saved(assignment: MakeAssignment) -> None:
    assign = assignment()
    training = loop.Training(assign, no_request)
    training.runner.load()
    training.runner.build()
    training.runner.state.sums[0] = float("nan")  # imitates a GPU whose last steps are not checked yet
    with pytest.raises(DivergedError):
        list(training.save())
    assert not list(Path(assign.checkpoint_folder).glob("*.ckpt"))


def test_training_resumed_after_a_rung_has_the_same_bits(assignment: MakeAssignment) -> None:
    whole = run_training(assignment(epochs=3))
    short = assignment(candidate=2, epochs=3)
    first = run_training(replace(short, stop_after=1))
    assert [report.epoch for report in epoch_metrics(first)] == [0]
    assert finished(first).accuracy == epoch_metrics(whole)[0].val_accuracy
    resumed = run_training(replace(short, attempt=2))
    assert resumed.only(Resumed).epoch == 1
    assert_same_bits(whole, resumed)
