"""The reports of a user's own training function: epochs, progress and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, Final

from eatnas_db.domain.spec import TrainingSpec
from eatnas_protocol.messages import Assign, EpochDone, Phase, Progress, Report
from eatnas_training import checkpoint
from eatnas_training.programs.errors import InvalidReportError
from eatnas_training.programs.handover import Handover
from eatnas_training.programs.metrics import COLUMNS, check_metrics
from eatnas_training.programs.randomness import GlobalGenerators
from eatnas_training.programs.saved_state import require_storable
from eatnas_training.steps import Clock
from eatnas_training.worker_protocol import PROGRESS_SECONDS, StopRequest

MAX_BATCHES: Final = 2**53


class TrainingReport:
    """The argument `report` of a program, which connects the program to the record.

    `identity` has all values that determine the bits of the training's result. A checkpoint with another identity is
    not used.
    """

    def __init__(
        self,
        assign: Assign,
        recipe: TrainingSpec,
        *,
        identity: str,
        stop_request: Callable[[], StopRequest],
        generators: GlobalGenerators,
        monotonic: Clock = time.monotonic,
        wall_clock: Clock = time.time,
    ) -> None:
        self._assign, self._recipe, self._identity = assign, recipe, identity
        self._stop_request, self._generators = stop_request, generators
        self._monotonic, self._wall_clock = monotonic, wall_clock
        self._token = (assign.candidate, assign.attempt)
        self._epochs: list[EpochDone] = []
        self._checkpoints = 0  # the number of checkpoints since the end of the last epoch
        self._began = False
        self._releasing = False  # whether a release was requested at the last `epoch`
        self._saved_at, self._progressed_at, self._epoch_began = monotonic(), -math.inf, 0.0
        self.handover: Handover

    @property
    def finished_epochs(self) -> int:
        """The number of reported epochs, including epochs before a resumption. The next epoch has this number."""
        return len(self._epochs)

    def resume(self) -> Any:
        """Return the state of the newest checkpoint of this candidate, or None if the training starts from scratch.

        Call this method once, before the first call of `epoch` or `checkpoint`. All tensors in the state are on the
        CPU.
        """
        self._require_own_turn()
        if self._began:
            raise InvalidReportError("report.resume: call it once, and before report.epoch and report.checkpoint")
        self._began = True
        found: list[Any] = []

        def steps() -> Iterator[Report]:
            yield Phase(*self._token, "restoring")
            resumed = checkpoint.resume(self._assign, lambda content: found.append(self._restore(content)))
            if resumed is not None:
                yield resumed
                yield from self._epochs
            yield Phase(*self._token, "program")

        self.handover.perform(steps)
        self._seed()
        return found[-1] if found else None

    def epoch(self, number: int, /, **metrics: Any) -> None:
        """Report the metrics of an epoch. Epochs are numbered from 0, and `training.epochs` is the number of epochs.

        The metrics must include the search's `objective.metric`. The metrics of the last epoch are the scores of the
        candidate.
        """
        self._require_own_turn()
        self._began = True
        self._require_next(number)
        values = check_metrics(metrics, epoch=number, objective=self._assign.objective_metric)
        self._epochs.append(self._epoch_report(values))
        self._checkpoints, self._epoch_began = 0, self.handover.seconds

        def steps() -> Iterator[Report]:
            yield self._epochs[-1]
            request = self._stop_request()
            # On the first request for a release, do not stop yet: a program that saves its state calls `checkpoint`
            # next, which saves and stops.
            if request is StopRequest.CANCEL or self._releasing:
                self.handover.stop()
            self._releasing = request is StopRequest.RELEASE

        self.handover.perform(steps)
        self._seed()

    def checkpoint(self, state: Any) -> None:
        """Save the state from which the program can resume here: tensors, numbers, strings, lists and dictionaries.

        A call between two batches is cheap, because a file is written only every `training.checkpoint_seconds`. `state`
        may be a function without arguments, which is called only if a file is written.
        """
        self._require_own_turn()
        self._began = True
        self._checkpoints += 1
        if not callable(state):
            require_storable(state)

        def steps() -> Iterator[Report]:
            request = self._stop_request()
            due = self._monotonic() - self._saved_at >= self._recipe.checkpoint_seconds
            is_last = len(self._epochs) == self._recipe.epochs
            if request is not StopRequest.CANCEL and (request is StopRequest.RELEASE or due or is_last):
                yield from self._save(state)
            if request is not StopRequest.NONE:
                self.handover.stop()

        self.handover.perform(steps)
        self._seed()

    def progress(self, batch: int, batches: int) -> None:
        """Report that `batch` of the `batches` batches of the current epoch are done.

        A training without any report for 15 minutes counts as hung, so a program with long epochs must call this
        method.
        """
        if not 0 <= batch <= batches <= MAX_BATCHES:
            raise InvalidReportError(f"report.progress: batch {batch!r} of {batches!r} does not exist; count from 0")
        if self._monotonic() - self._progressed_at < PROGRESS_SECONDS:
            return
        self._progressed_at = self._monotonic()

        def steps() -> Iterator[Report]:
            yield Progress(
                candidate=self._assign.candidate,
                attempt=self._assign.attempt,
                epoch=len(self._epochs),
                batch=int(batch),
                batches=int(batches),
                device_seconds=self.handover.seconds,
            )
            yield Phase(*self._token, "program")
            if self._stop_request() is not StopRequest.NONE:
                self.handover.stop()

        self.handover.perform(steps)

    def _require_own_turn(self) -> None:
        """Raise `InvalidReportError` if a call would block forever, or if the program has drawn from a global
        generator.
        """
        self.handover.require_own_turn()  # checked first, because a fork changes the state of Python's generator
        self._generators.require_unused()

    def scores(self) -> dict[str, float]:
        """Return the metrics of the last epoch. Raises `InvalidReportError` if epochs are missing."""
        self._generators.require_unused()
        reported, wanted = len(self._epochs), self._recipe.epochs
        if reported != wanted:
            raise InvalidReportError(
                f"the program ended after {reported} of {wanted} epochs; call report.epoch once for each epoch"
            )
        last = self._epochs[-1]
        columns = {name: getattr(last, name) for name in COLUMNS if name != "learning_rate"}
        return {**{name: value for name, value in columns.items() if value is not None}, **(last.metrics or {})}

    def _require_next(self, number: int) -> None:
        expected, epochs = len(self._epochs), self._recipe.epochs
        if expected >= epochs:
            reason = f"all epochs of the recipe are already reported ({epochs})"
            raise InvalidReportError(f"report.epoch({number!r}): {reason}")
        if isinstance(number, bool) or number != expected:
            raise InvalidReportError(f"report.epoch({number!r}): the next epoch is number {expected}")

    def _epoch_report(self, values: dict[str, float]) -> EpochDone:
        return EpochDone(
            candidate=self._assign.candidate,
            attempt=self._assign.attempt,
            epoch=len(self._epochs),
            train_loss=values.get("train_loss"),
            train_accuracy=values.get("train_accuracy"),
            val_loss=values.get("val_loss"),
            val_accuracy=values.get("val_accuracy"),
            learning_rate=values.get("learning_rate"),
            seconds=self.handover.seconds - self._epoch_began,
            ended_at=self._wall_clock(),
            metrics={name: value for name, value in values.items() if name not in COLUMNS},
        )

    def _save(self, state: Any) -> Iterator[Report]:
        if callable(state):
            state = state()
            require_storable(state)
        yield Phase(*self._token, "saving")
        content = checkpoint.pack(
            {
                "identity": self._identity,
                "epoch_reports": [asdict(report) for report in self._epochs],
                "checkpoints": self._checkpoints,
                "state": state,
            }
        )
        epoch = len(self._epochs)
        yield from checkpoint.save_with_retries(self._assign, epoch, self._checkpoints, content, self._stop_request)
        yield Phase(*self._token, "program")
        self._saved_at = self._monotonic()

    def _restore(self, content: bytes) -> Any:
        saved = checkpoint.unpack(content)
        if saved["identity"] != self._identity:
            raise ValueError("it belongs to another network, recipe, program or seed")
        reports = [EpochDone(**fields) for fields in saved["epoch_reports"]]
        self._epochs = [replace(report, attempt=self._assign.attempt) for report in reports]
        self._checkpoints = saved["checkpoints"]
        return saved["state"]

    def _seed(self) -> None:
        self._generators.seed_for(len(self._epochs), self._checkpoints)
