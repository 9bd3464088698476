"""Train a candidate with a user's own function, as a generator of the same reports as the built-in training."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch

from eatnas_db.domain.data_state import NO_DATA, NO_DATA_DIGEST
from eatnas_db.errors import DataError, PluginError
from eatnas_db.plugins import Plugin, PluginIdentity, list_versions
from eatnas_protocol.messages import Assign, Failed, Finished, Phase, Released, Report
from eatnas_training.data.batches import LoadedData
from eatnas_training.data.loading import forget_loaded_data
from eatnas_training.failures import failure_kind, is_cuda_error
from eatnas_training.numerics import resolve_precision, use_deterministic_arithmetic
from eatnas_training.programs.errors import InvalidReportError, ProgramStoppedError
from eatnas_training.programs.handover import END_SECONDS, Handover
from eatnas_training.programs.inputs import candidate_network, task_of
from eatnas_training.programs.leftovers import ProcessState
from eatnas_training.programs.randomness import GlobalGenerators
from eatnas_training.programs.training_report import TrainingReport
from eatnas_training.state import identity_of
from eatnas_training.steps import Clock, StepRunner
from eatnas_training.worker_protocol import StopRequest


def train(
    assign: Assign,
    stop_request: Callable[[], StopRequest],
    *,
    device: str = "cpu",
    monotonic: Clock = time.monotonic,
    wall_clock: Clock = time.time,
) -> Iterator[Report]:
    """Train one candidate with the program of its recipe. The last report is Finished, Released or Failed."""
    training = ProgramTraining(assign, stop_request, device, monotonic, wall_clock)
    try:
        yield from training.run()
    except Exception as error:
        if isinstance(error, DataError):
            forget_loaded_data(assign.data)
        yield Failed(
            candidate=assign.candidate,
            attempt=assign.attempt,
            kind=failure_kind(error),
            message=str(error) or type(error).__name__,
            traceback="" if isinstance(error, PluginError) else "".join(traceback.format_exception(error)),
            device_seconds=training.device_seconds,
            # In these cases, replace the process: it cannot import another version of a module, or end a function that
            # does not stop.
            fatal=isinstance(error, PluginError)
            or is_cuda_error(error)
            or not training.ended
            or bool(training.left_behind),
        )


class ProgramTraining:
    """One run of a program for an assignment."""

    def __init__(
        self,
        assign: Assign,
        stop_request: Callable[[], StopRequest],
        device: str,
        monotonic: Clock,
        wall_clock: Clock,
    ) -> None:
        self._assign, self._stop_request, self._device = assign, stop_request, device
        self._monotonic, self._wall_clock = monotonic, wall_clock
        self._runner = StepRunner(assign, device, monotonic)
        self._token = (assign.candidate, assign.attempt)
        self._handover: Handover | None = None
        self.left_behind = ""
        """A description of changes that the program has left in this process."""

    @property
    def device_seconds(self) -> float:
        """The time that the program has run, in seconds."""
        return 0.0 if self._handover is None else self._handover.seconds

    @property
    def ended(self) -> bool:
        """Whether the program no longer runs."""
        return self._handover is None or self._handover.ended

    def run(self) -> Iterator[Report]:
        """Run the program until its end or a stop request. Does not catch exceptions, which `train` reports."""
        recipe = self._runner.recipe
        assert recipe.program is not None
        yield Phase(*self._token, "loading")
        identity = PluginIdentity.from_json(self._assign.training["program"])
        identity.require_installed()
        program = Plugin(identity.reference, identity.reference)
        function = program.load()
        if not (yield from self._load()):
            return
        yield Phase(*self._token, "building")
        precision = resolve_precision(self._device, recipe.precision)
        report = TrainingReport(
            self._assign,
            recipe,
            identity=identity_of(self._assign, recipe, self._data_digest),
            stop_request=self._stop_request,
            generators=(generators := GlobalGenerators(self._assign.seed)),
            monotonic=self._monotonic,
            wall_clock=self._wall_clock,
        )
        task = task_of(self._assign, device=self._device, precision=precision, load=self._require_data)
        arguments: tuple[Any, ...] = (candidate_network(self._assign), task, recipe, report)

        def call() -> None:
            torch.set_num_threads(recipe.threads)
            use_deterministic_arithmetic(compiled=True)
            generators.seed_for(0, 0)
            function(*arguments)

        self._handover = report.handover = Handover(call, self._monotonic)
        yield Phase(*self._token, "program")
        before = ProcessState()
        yield from self._handover.reports()
        self.left_behind = before.end_leftovers()
        if self.left_behind:
            print(f"the program left behind {self.left_behind}; a new worker replaces this one", flush=True)
        yield self._last_report(report, precision, list_versions(program.package))

    def _last_report(self, report: TrainingReport, precision: str, versions: dict[str, str]) -> Finished | Released:
        handover, error = self._handover, None if self._handover is None else self._handover.error
        assert handover is not None
        if handover.stopped:
            if not handover.ended:
                raise InvalidReportError(f"the program did not end within {END_SECONDS:g} s after a stop request")
            return Released(*self._token, handover.seconds, self.left_behind)
        if isinstance(error, SystemExit):
            raise RuntimeError(f"the program called sys.exit({error.code!r}) instead of returning") from error
        if isinstance(error, Exception):
            raise error
        if error is not None and not isinstance(error, ProgramStoppedError):
            raise RuntimeError(f"the program raised {type(error).__name__}: {error}") from error
        return Finished(
            candidate=self._assign.candidate,
            attempt=self._assign.attempt,
            accuracy=None,
            loss=None,
            data_digest=self._data_digest,
            device_seconds=handover.seconds,
            precision=precision,
            metrics=report.scores(),
            versions=versions,
            left_behind=self.left_behind,
        )

    @property
    def _has_data(self) -> bool:
        return bool(self._assign.data["name"] != NO_DATA)

    @property
    def _data_digest(self) -> str:
        return self._runner.data.digest if self._has_data else NO_DATA_DIGEST

    def _require_data(self) -> LoadedData:
        if not self._has_data:
            raise InvalidReportError(
                "task.data: data.name is none, so there are no images; name a data set in the spec"
            )
        return self._runner.data

    def _load(self) -> Generator[Report, None, bool]:
        """Load the images if the spec names a data set. Return False if a stop is requested."""
        if not self._has_data:
            return True
        for progress in self._runner.load_steps():
            if self._stop_request() is not StopRequest.NONE:
                yield Released(*self._token, 0.0)
                return False
            print(progress.describe(), flush=True)
            yield Phase(*self._token, "loading")
        return True
