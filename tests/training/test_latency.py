"""The latency of a network is measured after its training, and the measurement does not change the bits of the
training.
"""

from dataclasses import replace
from itertools import count

import pytest
import torch

from eatnas_db.domain.macro import Task
from eatnas_protocol.messages import Phase, Released
from eatnas_training.latency import WARM_UP_RUNS, LatencyMeasurement
from eatnas_training.worker_protocol import StopRequest
from support.trainings import MakeAssignment, epoch_metrics, failed, finished, run_training

SETTINGS = {"device": "cpu", "batch": 3, "threads": 2, "runs": 5}


def test_median_and_quartiles_come_after_the_warm_up() -> None:
    seconds = iter([0.0, 9.0] * WARM_UP_RUNS + [0.0, 0.001, 0.0, 0.005, 0.0, 0.002, 0.0, 0.004, 0.0, 0.003])
    shapes, threads = [], []

    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            shapes.append(tuple(images.shape))
            threads.append(torch.get_num_threads())
            return images

    before = torch.get_num_threads()
    measurement = LatencyMeasurement(
        Network(),
        Task(8, 1, 10),
        SETTINGS,
        device="cpu",
        precision="float32",
        clock=lambda: next(seconds),
        other_load=lambda: 0.7,
    )
    *pauses, latency = measurement.steps()
    assert pauses == [None] * (WARM_UP_RUNS + 5)
    assert latency is not None
    assert (latency.low, latency.median, latency.high) == pytest.approx((2.0, 3.0, 4.0))
    assert latency.quiet is False
    assert set(shapes) == {(3, 1, 8, 8)}
    assert set(threads) == {2}
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_measuring_changes_no_result(assignment: MakeAssignment, one_thread: None) -> None:
    plain = run_training(assignment(epochs=1))
    measured = run_training(replace(assignment(epochs=1), latency=SETTINGS))
    assert [report.phase for report in measured.of(Phase)][-1] == "measuring"
    assert epoch_metrics(plain) == epoch_metrics(measured)
    report = finished(measured)
    assert (report.accuracy, report.loss) == (finished(plain).accuracy, finished(plain).loss)
    assert report.latency_ms is not None
    assert 0 < report.latency_low <= report.latency_ms <= report.latency_high
    assert finished(plain).latency_ms is None


@pytest.mark.slow
def test_a_stop_during_the_measurement_keeps_the_training(assignment: MakeAssignment) -> None:
    wanted, calls = replace(assignment(epochs=1), latency={**SETTINGS, "runs": 10_000}), count()

    def stop() -> StopRequest:
        return StopRequest.RELEASE if next(calls) > 40 else StopRequest.NONE

    assert run_training(wanted, stop).of(Released)
    again = run_training(replace(wanted, latency=SETTINGS))
    assert "training" not in [report.phase for report in again.of(Phase)]
    assert finished(again).latency_ms is not None


def test_a_device_that_the_worker_lacks_is_a_clear_failure(assignment: MakeAssignment) -> None:
    failure = failed(run_training(replace(assignment(epochs=1), latency={**SETTINGS, "device": "cuda"})))
    assert "the spec measures latency_ms on cuda, but this worker trains on cpu" in failure.message
