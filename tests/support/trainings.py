"""Run trainings in the test's own process and compare their reports."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from eatnas_db.checkpoint_files import read_checkpoint
from eatnas_protocol.messages import Assign, Checkpointed, EpochDone, Failed, Finished, Phase, Report
from eatnas_training import checkpoint, loop
from eatnas_training.worker_protocol import StopRequest

R = TypeVar("R", bound=Report)
MakeAssignment = Callable[..., Assign]
"""The type of the fixture `assignment`."""


def no_request() -> StopRequest:
    return StopRequest.NONE


def after_calls(calls: int, request: StopRequest) -> Callable[[], StopRequest]:
    """Return a function that returns `request` from its n-th call on."""
    count = itertools.count(1)
    return lambda: request if next(count) >= calls else StopRequest.NONE


class Reports(list[Report]):
    """The reports of a training, and the folder of its checkpoints."""

    def __init__(self, reports: Iterable[Report | None], folder: str) -> None:
        super().__init__(report for report in reports if report is not None)
        self.folder = folder

    def of(self, kind: type[R]) -> list[R]:
        return [report for report in self if isinstance(report, kind)]

    def only(self, kind: type[R]) -> R:
        (report,) = self.of(kind)
        return report

    def last_checkpoint(self) -> Path:
        return Path(self.folder, self.of(Checkpointed)[-1].path)


def run_training(assign: Assign, stop_request: Callable[[], StopRequest] = no_request, **options: Any) -> Reports:
    return Reports(loop.train(assign, stop_request, **options), assign.checkpoint_folder)


def released_in_training(assign: Assign, batches: int) -> Reports:
    """Train the given number of batches, and then release the training."""
    calls, reports = itertools.count(1), Reports([], assign.checkpoint_folder)

    def request() -> StopRequest:
        training = any(isinstance(report, Phase) and report.phase == "training" for report in reports)
        return StopRequest.RELEASE if training and next(calls) > batches else StopRequest.NONE

    for report in loop.train(assign, request):
        if report is not None:
            reports.append(report)
    return reports


def epoch_metrics(reports: Reports) -> list[EpochDone]:
    """Return the reports of epochs without their fields for the candidate, the attempt and times."""
    return [replace(report, candidate=0, attempt=0, seconds=0, ended_at=0) for report in reports.of(EpochDone)]


def finished(reports: Reports) -> Finished:
    last = reports[-1]
    assert isinstance(last, Finished), last
    return last


def failed(reports: Reports) -> Failed:
    last = reports[-1]
    assert isinstance(last, Failed), last
    return last


def saved_state(reports: Reports) -> dict[str, Any]:
    """Return the content of the last checkpoint."""
    return checkpoint.unpack(read_checkpoint(reports.last_checkpoint()))


def assert_same_bits(first: Reports, second: Reports) -> None:
    """Assert that two complete trainings have equal metrics, weights and momenta."""
    finished(first)
    finished(second)
    assert epoch_metrics(first) == epoch_metrics(second)
    states = saved_state(first), saved_state(second)
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name
    for name, tensor in states[0].get("average", {}).items():
        assert torch.equal(tensor, states[1]["average"][name]), name
    momenta = (state["optimizer"]["state"].values() for state in states)
    for one, other in zip(*momenta, strict=True):
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            assert torch.equal(tensor, other[name]), name


def assert_equal_content(one: Any, other: Any) -> None:
    """Assert that the contents of two checkpoints are equal."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one.keys() - {"epoch_seconds"}:
            assert_equal_content(one[name], other[name])
    else:
        assert one == other
