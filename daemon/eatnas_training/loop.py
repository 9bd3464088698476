"""The training loop: a generator of reports. A training that is interrupted and resumed has bit-identical results."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any, Final

import torch

from eatnas_db.domain.macro import Task
from eatnas_db.errors import DataError
from eatnas_protocol.messages import (
    AncestorRetrained,
    Assign,
    Checkpointed,
    EpochDone,
    Failed,
    Finished,
    InitialWeights,
    Phase,
    Progress,
    Released,
    Report,
)
from eatnas_training import checkpoint
from eatnas_training.data.loading import forget_loaded_data
from eatnas_training.failures import failure_kind, is_cuda_error
from eatnas_training.inheritance.initial_weights import read_initial_weights
from eatnas_training.inheritance.parent import TrainedNetwork, find_nearest_ancestor, spec_of
from eatnas_training.latency import Latency, LatencyMeasurement, load_of_other_processes
from eatnas_training.rank_group import STEP_SECONDS, RankGroup
from eatnas_training.state import identity_of
from eatnas_training.steps import Clock, StepRunner, require_finite
from eatnas_training.worker_protocol import PROGRESS_SECONDS, StopRequest

LOG_SECONDS: Final = 10.0
"""The time between two lines of the log while images are decoded."""


def train(
    assign: Assign,
    stop_request: Callable[[], StopRequest],
    *,
    device: str = "cpu",
    monotonic: Clock = time.monotonic,
    wall_clock: Clock = time.time,
    step_seconds: float = STEP_SECONDS,
) -> Iterator[Report | None]:
    """Train one candidate, and call `stop_request` between batches. The last report is Finished, Released or Failed.

    Yields None after each batch, so that the process can give another training its turn.
    """
    training = Training(assign, stop_request, device, monotonic, wall_clock)
    training.step_seconds = step_seconds
    try:
        yield from training.run()
    except Exception as error:
        if isinstance(error, DataError):
            for data in (assign.data, *(ancestor["data"] for ancestor in assign.ancestors)):
                forget_loaded_data(data)  # lets the next training look at the files again
        yield Failed(
            candidate=assign.candidate,
            attempt=assign.attempt,
            kind=failure_kind(error),
            message=str(error) or type(error).__name__,
            traceback="".join(traceback.format_exception(error)),
            device_seconds=training.device_seconds,
            fatal=is_cuda_error(error),
        )
    finally:
        if training.ranks is not None:
            training.ranks.close()


class Training:
    """One run of an assignment, from loading the data to the last report."""

    def __init__(
        self,
        assign: Assign,
        stop_request: Callable[[], StopRequest],
        device: str = "cpu",
        monotonic: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        parent: TrainedNetwork | None = None,
    ) -> None:
        self.assign, self.parent = assign, parent
        self.stop_request, self.monotonic, self.wall_clock = stop_request, monotonic, wall_clock
        self.runner = StepRunner(assign, device, monotonic)
        self._token = (assign.candidate, assign.attempt)
        self._ancestor_seconds, self.step_seconds = 0.0, STEP_SECONDS
        self._reported_at, self._saved_at = -math.inf, monotonic()
        self._saved_position: tuple[int, int] | None = None
        self.ranks: RankGroup | None = None

    @property
    def device_seconds(self) -> float:
        """The time spent in steps since the assignment, in seconds, including the steps of ancestors that are trained
        again.
        """
        return self.runner.device_seconds + self._ancestor_seconds

    def run(self) -> Iterator[Report | None]:
        """Train until the end or a stop request. Does not catch exceptions, which `train` reports."""
        runner, recipe = self.runner, self.runner.recipe
        yield Phase(*self._token, "loading")
        if not (yield from self._load()):
            return
        yield Phase(*self._token, "building")
        runner.build()
        resumed = yield from self._resume()
        if self.assign.initial_weights is not None and not resumed:
            runner.build(read_initial_weights(InitialWeights(**self.assign.initial_weights)))
        if self.assign.inherits and not resumed and not (yield from self._inherit()):
            return
        if recipe.devices > 1 and runner.state.epoch < recipe.epochs and not (yield from self._start_ranks()):
            return
        yield from runner.state.epoch_reports
        self._saved_at = self.monotonic()
        while runner.state.epoch < (self.assign.stop_after or recipe.epochs):
            yield Phase(*self._token, "training")
            while runner.state.batch < runner.batches:
                if (request := self.stop_request()) is not StopRequest.NONE:
                    yield from self._stop(request)
                    return
                if self.monotonic() - self._saved_at >= recipe.checkpoint_seconds:
                    yield from self.save()
                runner.train_step()
                yield from self._progress()
            runner.require_finite_loss()
            validation = None
            if not self.assign.final_model:
                yield Phase(*self._token, "validating")
                validation = yield from self._evaluate()
                if validation is None:
                    return
            report = _epoch_report(self, validation)
            runner.state.close_epoch(report)
            yield report
        yield from self.save()
        last = runner.state.epoch_reports[-1]
        loss, accuracy = last.val_loss, last.val_accuracy
        if self.assign.final_model:
            # The test images are used only here. After an interruption, the same weights are evaluated again.
            yield Phase(*self._token, "testing")
            test = yield from self._evaluate()
            if test is None:
                return
            loss, accuracy = test
        assert loss is not None
        assert accuracy is not None
        latency = None
        if self.assign.latency is not None:
            yield Phase(*self._token, "measuring")
            latency = yield from self._measure_latency(self.assign.latency)
            if latency is None:
                return
        yield _finished(self, loss, accuracy, latency)

    def _load(self) -> Generator[Report, None, bool]:
        """Load the images, which takes minutes for a large folder. Return False if a stop is requested."""
        logged_at = self.monotonic()
        for progress in self.runner.load_steps():
            if self.stop_request() is not StopRequest.NONE:
                yield Released(*self._token, self.device_seconds)
                return False
            if self.monotonic() - logged_at >= LOG_SECONDS:
                logged_at = self.monotonic()
                print(progress.describe(), flush=True)
            yield Phase(*self._token, "loading")
        return True

    def _start_ranks(self) -> Generator[Report, None, bool]:
        """Start the processes of the other ranks. Return False if a stop is requested while they load the images."""
        runner = self.runner
        self.ranks = RankGroup(self.assign, runner.recipe.devices, self.step_seconds, monotonic=self.monotonic)
        state = checkpoint.pack(runner.state.to_checkpoint(self._identity()))
        if not (yield from self.ranks.connect(runner.data.digest, state, self.stop_request)):
            yield Released(*self._token, self.device_seconds)
            return False
        runner.exchange = self.ranks
        return True

    def _resume(self) -> Generator[Report, None, bool]:
        """Restore the newest valid checkpoint. Return whether there is one."""
        resumed = checkpoint.resume(self.assign, self._restore)
        if resumed is None:
            return False
        if resumed.path is None:  # a failed attempt to restore may have changed the network
            self.runner.build()
        yield resumed
        return resumed.path is not None

    def _restore(self, content: bytes) -> None:
        self.runner.state.restore(checkpoint.unpack(content), identity=self._identity(), attempt=self.assign.attempt)

    def _identity(self) -> str:
        return identity_of(self.assign, self.runner.recipe, self.runner.data.digest)

    def _inherit(self) -> Generator[Report | None, None, bool]:
        """Train missing ancestors again, and start from the parent's weights. Return False if a stop is requested."""
        parent, missing = (self.parent, []) if self.parent else find_nearest_ancestor(self.assign)
        for ancestor in missing:
            retraining = Training(
                assign=ancestor,
                stop_request=self.stop_request,
                device=self.runner.device,
                monotonic=self.monotonic,
                wall_clock=self.wall_clock,
                parent=parent,
            )
            yield Phase(*self._token, "restoring")
            for report in retraining.run():
                if isinstance(report, Progress):
                    yield replace(report, candidate=self.assign.candidate, attempt=self.assign.attempt)
                elif report is None or isinstance(report, Phase):
                    yield report and Phase(*self._token, "restoring")
                elif isinstance(report, Checkpointed):
                    checkpoint.remove_older(ancestor)
                elif isinstance(report, Released):
                    yield Released(*self._token, self.device_seconds + retraining.device_seconds)
                    return False
            self._ancestor_seconds += retraining.device_seconds
            yield AncestorRetrained(*self._token, ancestor.candidate)
            parent = TrainedNetwork(spec_of(ancestor), retraining.runner.state.model.cpu().state_dict())
        assert parent is not None
        self.runner.build(parent)
        return True

    def _evaluate(self) -> Generator[Report | None, None, tuple[float, float] | None]:
        """Return loss and accuracy on the held-out images, or None if a stop is requested."""
        count = len(self.runner.data.held_out.labels)
        sums = torch.zeros_like(self.runner.state.sums)
        start = 0
        while start < count:
            if (request := self.stop_request()) is not StopRequest.NONE:
                yield from self._stop(request)
                return None
            start = self.runner.validate_step(start, sums)
            yield from self._progress()
        loss, correct, _ = self.runner.read_sums(sums)
        require_finite(loss, self.runner.state.epoch)
        return loss / count, correct / count

    def _measure_latency(self, settings: dict[str, Any]) -> Generator[Report, None, Latency | None]:
        """Return the latency of the trained network, or None if a stop is requested. The measurement does not count as
        device time.
        """
        state = self.runner.state
        measurement = LatencyMeasurement(
            state.model,
            Task(**self.assign.task),
            settings,
            device=self.runner.device,
            precision=state.precision,
            clock=self.monotonic,
            other_load=load_of_other_processes,
        )
        for latency in measurement.steps():
            if latency is not None:
                return latency
            if (request := self.stop_request()) is not StopRequest.NONE:
                yield from self._stop(request)
                break
            yield from filter(None, self._progress())  # never None: no other training may compute meanwhile
        return None

    def save(self) -> Iterator[Report]:
        """Write a checkpoint between two batches. On a full disk, wait for space or for a stop request.

        Do nothing if this position is already saved: a stop during the test of the trained network must not replace the
        last checkpoint, because its digest is recorded.
        """
        state = self.runner.state
        position = state.epoch, state.batch
        if position == self._saved_position:
            return
        yield Phase(*self._token, "saving")
        self.runner.require_finite_loss()  # on a GPU, this waits for the steps and counts the time as device seconds
        content = checkpoint.pack(state.to_checkpoint(self._identity()))
        for report in checkpoint.save_with_retries(self.assign, *position, content, self.stop_request):
            if isinstance(report, Checkpointed):
                self._saved_position = position
            yield report
        self._saved_at = self.monotonic()

    def _stop(self, request: StopRequest) -> Iterator[Report]:
        if request is StopRequest.RELEASE:
            yield from self.save()
        else:
            self.runner.read_sums(self.runner.state.sums)
        yield Released(*self._token, self.device_seconds)

    def _progress(self) -> Iterator[Report | None]:
        yield None
        now = self.monotonic()
        if now - self._reported_at < PROGRESS_SECONDS:
            return
        self._reported_at = now
        self.runner.require_finite_loss()
        yield Progress(
            candidate=self.assign.candidate,
            attempt=self.assign.attempt,
            epoch=self.runner.state.epoch,
            batch=self.runner.state.batch,
            batches=self.runner.batches,
            device_seconds=self.device_seconds,
            memory_bytes=0 if self.runner.device == "cpu" else torch.cuda.memory_reserved(self.runner.device),
        )


def _epoch_report(training: Training, validation: tuple[float, float] | None) -> EpochDone:
    runner, state = training.runner, training.runner.state
    val_loss, val_accuracy = validation or (None, None)
    loss, correct, images = state.sums.tolist()
    return EpochDone(
        candidate=training.assign.candidate,
        attempt=training.assign.attempt,
        epoch=state.epoch,
        train_loss=loss / images,
        train_accuracy=correct / images,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        learning_rate=runner.learning_rate((state.epoch + 1) * runner.batches - 1),
        seconds=state.epoch_seconds,
        ended_at=training.wall_clock(),
    )


def _finished(training: Training, loss: float, accuracy: float, latency: Latency | None) -> Finished:
    state = training.runner.state
    report = Finished(
        candidate=training.assign.candidate,
        attempt=training.assign.attempt,
        accuracy=accuracy,
        loss=loss,
        data_digest=training.runner.data.digest,
        device_seconds=training.device_seconds,
        share_inherited=state.share_inherited,
        logit_distance=state.logit_distance,
        precision=state.precision,
    )
    if latency is None:
        return report
    return replace(
        report,
        latency_ms=latency.median,
        latency_low=latency.low,
        latency_high=latency.high,
        latency_device=latency.device_name,
        latency_quiet=latency.quiet,
    )
