from __future__ import annotations

import itertools
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eatnas_db.checkpoint_files import read_checkpoint
from eatnas_protocol.messages import (
    Assign,
    Checkpointed,
    EpochDone,
    Failed,
    Finished,
    Phase,
    Progress,
    Released,
    Report,
    Resumed,
)
from eatnas_training import checkpoint, failures, loop, numerics, steps
from eatnas_training.failures import DivergedError
from eatnas_training.loop import Training
from eatnas_training.steps import StepRunner
from eatnas_training.worker_protocol import StopRequest

Make = Callable[..., Assign]


def go_on() -> StopRequest:
    return StopRequest.NONE


def after(calls: int, request: StopRequest) -> Callable[[], StopRequest]:
    """Return a function that returns `request` from that many calls on."""
    count = itertools.count(1)
    return lambda: request if next(count) >= calls else StopRequest.NONE


class Reports(list[Report]):
    """What a training said, and where its checkpoints are."""

    def __init__(self, reports: Iterable[Report], folder: str) -> None:
        super().__init__(reports)
        self.folder = folder

    @property
    def saved(self) -> list[Checkpointed]:
        return [report for report in self if isinstance(report, Checkpointed)]


def train(assign: Assign, wanted: Callable[[], StopRequest] = go_on, **clocks: Any) -> Reports:
    return Reports(loop.train(assign, wanted, **clocks), assign.checkpoint_folder)


def rows(reports: Iterable[Report]) -> list[EpochDone]:
    """The epochs' figures without what a clock or an attempt decides."""
    return [replace(report, attempt=0, seconds=0, ended_at=0) for report in reports if isinstance(report, EpochDone)]


def weights(reports: Reports) -> dict[str, Any]:
    return checkpoint.unpack(read_checkpoint(Path(reports.folder, reports.saved[-1].path)))


def assert_same_bits(one: Reports, other: Reports) -> None:
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
    assert (last.accuracy, last.loss) == (done[-1].val_accuracy, done[-1].val_loss)
    assert last.device_seconds > 0


def test_digits_are_learned(assignment: Make) -> None:
    data = {"name": "digits"}
    last = train(assignment(data=data, epochs=5, batch_size=32, augment="none"))[-1]
    assert isinstance(last, Finished)
    assert last.accuracy > 0.5


def test_two_runs_have_the_same_bits_even_after_another_network(assignment: Make) -> None:
    first = train(assignment())
    other_code: list[list[int | float]] = [[2, 2, 1, 1, 1.0]] * 7
    train(assignment(candidate=2, code=other_code, epochs=1, seed=9))
    torch.rand(3)
    assert_same_bits(first, train(assignment(attempt=2)))


@pytest.mark.parametrize("calls", [1, 3, 5, 6, 8])
def test_a_resumed_training_has_the_same_bits_wherever_it_stopped(assignment: Make, calls: int) -> None:
    whole = train(assignment())
    stopped = train(assignment(attempt=2), after(calls, StopRequest.RELEASE))
    assert isinstance(stopped[-1], Released)
    assert isinstance(stopped[-2], Checkpointed)
    resumed = train(assignment(attempt=3, checkpoint_folder=stopped.folder))
    assert_same_bits(whole, resumed)
    kept = [report for report in stopped if isinstance(report, EpochDone)]
    again = [report for report in resumed if isinstance(report, EpochDone)][: len(kept)]
    assert again == [replace(row, attempt=3) for row in kept]


FRESH = """
import json, sys
from dataclasses import asdict
from eatnas_protocol.messages import Assign
from eatnas_training import loop
from eatnas_training.worker_protocol import StopRequest
from eatnas_training.failures import DivergedError
for report in loop.train(Assign(**json.load(sys.stdin)), lambda: StopRequest.NONE):
    print(json.dumps([type(report).__name__, asdict(report)]))
"""


@pytest.mark.slow
def test_a_fresh_process_goes_on_inside_an_epoch_with_the_same_bits(assignment: Make) -> None:
    whole = train(assignment())
    stopped = train(assignment(attempt=2), after(3, StopRequest.RELEASE))
    saved = stopped[-2]
    assert isinstance(saved, Checkpointed)
    assert (saved.epoch, saved.batch) == (0, 2)
    answer = subprocess.run(
        [sys.executable, "-c", FRESH],
        input=json.dumps(asdict(assignment(attempt=3, checkpoint_folder=stopped.folder))),
        capture_output=True,
        text=True,
        check=True,
    )
    kinds = {kind.__name__: kind for kind in (Checkpointed, EpochDone, Finished)}
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    again = Reports((kinds[kind](**report) for kind, report in lines if kind in kinds), stopped.folder)
    assert_same_bits(whole, again)


def test_checkpoints_come_by_the_clock_and_progress_twice_a_second(assignment: Make) -> None:
    ticks = iter(range(10**6))
    reports = train(assignment(checkpoint_seconds=0.5), monotonic=lambda: next(ticks) * 0.05)
    saved = [report for report in reports if isinstance(report, Checkpointed)]
    progress = [report for report in reports if isinstance(report, Progress)]
    assert len(saved) >= 3
    assert len({path.path for path in saved}) == len(saved)
    assert 2 <= len(progress) < 8
    assert_same_bits(train(assignment()), reports)


@pytest.mark.parametrize("damage", ["torn", "garbled", "empty", "another's"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(assignment: Make, damage: str) -> None:
    ticks = iter(range(10**6))
    whole = train(assignment())
    stopped = train(
        assignment(checkpoint_seconds=0.5), after(7, StopRequest.RELEASE), monotonic=lambda: next(ticks) * 0.05
    )
    before, newest = stopped.saved[-2:]
    path = Path(stopped.folder, newest.path)
    content = bytearray(path.read_bytes())
    if damage == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbled":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        other = train(assignment(seed=8), after(2, StopRequest.RELEASE))
        path.write_bytes(Path(other.folder, other.saved[-1].path).read_bytes())
    again = train(assignment(attempt=2, checkpoint_folder=stopped.folder))
    (resumed,) = [report for report in again if isinstance(report, Resumed)]
    assert (resumed.path, resumed.epoch, resumed.batch) == (before.path, before.epoch, before.batch)
    assert list(resumed.damaged) == [newest.path]
    assert_same_bits(whole, again)


def test_without_a_usable_checkpoint_a_training_starts_afresh_and_says_so(assignment: Make) -> None:
    stopped = train(assignment(), after(3, StopRequest.RELEASE))
    Path(stopped.folder, stopped.saved[-1].path).write_bytes(b"rubbish")
    again = train(assignment(attempt=2, checkpoint_folder=stopped.folder))
    (resumed,) = [report for report in again if isinstance(report, Resumed)]
    assert resumed.path is None
    assert list(resumed.damaged) == [stopped.saved[-1].path]
    assert_same_bits(train(assignment()), again)


def test_a_finished_checkpoint_only_repeats_its_reports(assignment: Make) -> None:
    whole = train(assignment())
    again = train(assignment(attempt=2, checkpoint_folder=whole.folder))
    assert rows(again) == rows(whole)
    assert not [report for report in again if isinstance(report, Progress)]


def test_on_a_full_disk_a_training_waits_and_then_goes_on_with_the_same_bits(assignment: Make) -> None:
    whole = train(assignment())
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    assign = assignment(attempt=2)
    reports: list[Report] = []
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, kept[1]))
        for report in loop.train(assign, go_on):
            reports.append(report)
            if [report.phase for report in reports if isinstance(report, Phase)].count("disk full") == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, handler)
    assert_same_bits(whole, Reports(reports, assign.checkpoint_folder))
    assert not list(Path(assign.checkpoint_folder).glob(".*"))


def test_cancel_stops_without_a_checkpoint(assignment: Make) -> None:
    reports = train(assignment(), after(2, StopRequest.CANCEL))
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
        torch.empty(1 << 50, dtype=torch.uint8)

    monkeypatch.setattr("eatnas_training.steps.cross_entropy", no_memory)
    last = train(assignment())[-1]
    assert isinstance(last, Failed)
    assert last.kind == "out_of_memory"
    assert not last.fatal


@pytest.mark.parametrize(
    ("words", "kind", "fatal"),
    [
        ("CUDA error: out of memory", "out_of_memory", False),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out_of_memory", False),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "out_of_memory", False),
        (
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
            "out_of_memory",
            False,
        ),
        ("GET was unable to find an engine to execute this computation", "exception", True),
        (
            "CUDNN_BACKEND_TENSOR_DESCRIPTOR cudnnFinalize failed cudnn_status: CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED",
            "exception",
            True,
        ),
        ("CUDA error: an illegal memory access was encountered", "exception", True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "exception", True),
        ("CUDA driver error: out of memory", "out_of_memory", False),
        ("CUDA error: uncorrectable ECC error encountered", "lost", True),
        ("The size of tensor a (3) must match the size of tensor b (4)", "exception", False),
    ],
)
def test_errors_of_a_gpu_have_their_kinds_and_those_of_cuda_end_the_process(
    assignment: Make, monkeypatch: pytest.MonkeyPatch, words: str, kind: str, fatal: bool
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr("eatnas_training.steps.cross_entropy", fails)
    last = train(assignment())[-1]
    assert isinstance(last, Failed)
    assert (last.kind, last.fatal) == (kind, fatal)


def test_a_convolution_that_finds_no_engine_is_out_of_memory_only_where_is_gpu_memory_low(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RuntimeError("GET was unable to find an engine to execute this computation")
    figures = {"mem_get_info": (1 << 30, 24 << 30), "memory_reserved": 5 << 30, "memory_allocated": 5 << 30}
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert failures.is_out_of_memory(error)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2 << 30)
    assert not failures.is_out_of_memory(error)
    assert failures.is_cuda_error(error)


def test_a_device_that_fails_while_a_checkpoint_is_restored_says_nothing_about_the_file(
    assignment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = train(assignment(), after(3, StopRequest.RELEASE))
    again = assignment(attempt=2, checkpoint_folder=stopped.folder)

    def fails(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

    def no_room(*_: object, **__: object) -> None:
        torch.empty(1 << 50, dtype=torch.uint8)

    for where, name, error in ((torch.nn.Module, "load_state_dict", fails), (torch, "load", no_room)):
        with monkeypatch.context() as short_of_memory:
            short_of_memory.setattr(where, name, error)
            reports = train(again)
        assert not [report for report in reports if isinstance(report, Resumed)]
        assert isinstance(last := reports[-1], Failed)
        assert last.kind == "out_of_memory"
    (resumed,) = [report for report in train(again) if isinstance(report, Resumed)]
    assert (resumed.path, resumed.damaged) == (stopped.saved[-1].path, {})


def test_what_has_left_the_numbers_is_no_checkpoint(assignment: Make) -> None:
    training = Training(assign := assignment(), go_on)
    runner = training.runner
    runner.load()
    runner.build()
    runner.state.sums[0] = float("nan")  # as on a device whose steps nobody has looked at yet
    with pytest.raises(DivergedError):
        list(training.save())
    assert not list(Path(assign.checkpoint_folder).glob("*.ckpt"))


def test_halves_of_a_batch_train_the_same_images_with_other_statistics(assignment: Make) -> None:
    whole, halved = assignment(epochs=1), replace(assignment(epochs=1), split_batches=True)
    losses = []
    for assign in (whole, halved):
        runner = StepRunner(assign)
        runner.load()
        runner.build()
        runner.train_step()
        assert float(runner.state.sums[2]) == 64
        losses.append(float(runner.state.sums[0]))
        assert all(torch.isfinite(one).all() for one in runner.state.model.parameters())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_a_train_part_smaller_than_a_batch_is_one_batch(assignment: Make) -> None:
    data = {"name": "digits", "train_images": 10, "validation_images": 5}
    assert isinstance(train(assignment(data=data))[-1], Finished)


def finished(reports: Reports) -> Finished:
    last = reports[-1]
    assert isinstance(last, Finished), last
    return last


def test_the_precision_is_the_recipes_and_a_score_tells_it(assignment: Make) -> None:
    auto, plain = (train(assignment(precision=precision)) for precision in ("auto", "float32"))
    assert finished(auto).precision == finished(plain).precision == "float32"
    assert rows(auto) == rows(plain)
    half = train(assignment(precision="bfloat16"))
    assert finished(half).precision == "bfloat16"
    assert rows(half) != rows(plain)
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(half)["model"].values())
    stopped = train(assignment(attempt=2, precision="bfloat16"), after(3, StopRequest.RELEASE))
    assert_same_bits(half, train(assignment(attempt=3, precision="bfloat16", checkpoint_folder=stopped.folder)))


def test_what_another_kind_of_device_began_is_kept_and_told(assignment: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(steps, "resolve_precision", lambda *_: "bfloat16")
        stopped = train(assignment(), after(3, StopRequest.RELEASE))
    again = train(assignment(attempt=2, checkpoint_folder=stopped.folder))
    (resumed,) = [report for report in again if isinstance(report, Resumed)]
    assert (resumed.path, resumed.damaged) == (stopped.saved[-1].path, {})
    assert finished(again).precision == "mixed"


def test_another_precision_in_the_recipe_is_another_training(assignment: Make) -> None:
    stopped = train(assignment(precision="bfloat16"), after(3, StopRequest.RELEASE))
    again = train(assignment(attempt=2, precision="float32", checkpoint_folder=stopped.folder))
    (resumed,) = [report for report in again if isinstance(report, Resumed)]
    assert resumed.path is None
    assert finished(again).precision == "float32"


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("augment", ["none", "shift", "crop_flip"])
def test_a_step_never_looks_at_what_its_device_computes(assignment: Make, augment: str, halved: bool) -> None:
    # torch's device without contents: whatever wants to see a number there is an error, and so is a mixture of devices.
    runner = StepRunner(replace(assignment(augment=augment, label_smoothing=0.1), split_batches=halved), "meta")
    runner.load()
    runner.build()
    state = runner.state
    state.optimizer = torch.optim.SGD(state.model.parameters(), 0.1)  # fused ones know devices that compute alone
    runner.train_step()
    runner.train_step()
    assert state.sums.device.type == "meta"
    assert all(parameter.grad is not None for parameter in state.model.parameters())
    assert runner.validate_step(0, state.sums) > 0
    with pytest.raises(NotImplementedError, match="no data"):
        runner.read_sums(state.sums)


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@CUDA
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_runs_on_a_gpu_have_the_same_bits_and_so_has_a_resumed_one(assignment: Make, precision: str) -> None:
    whole = train(assignment(precision=precision), device="cuda:0")
    assert finished(whole).precision == numerics.resolve_precision("cuda:0", precision)
    assert_same_bits(whole, train(assignment(attempt=2, precision=precision), device="cuda:0"))
    stopped = train(assignment(attempt=3, precision=precision), after(3, StopRequest.RELEASE), device="cuda:0")
    resumed = assignment(attempt=4, precision=precision, checkpoint_folder=stopped.folder)
    assert_same_bits(whole, train(resumed, device="cuda:0"))


@CUDA
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_step_on_a_gpu_waits_for_nothing(assignment: Make) -> None:
    runner = StepRunner(assignment(), "cuda:0")
    runner.load()
    runner.build()
    runner.train_step()  # the first one allocates
    try:
        torch.cuda.set_sync_debug_mode("error")
        runner.train_step()
        runner.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
