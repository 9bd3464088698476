"""Check that a user's own training function is repeatable, resumable and independent of global random state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any, Final

from eatnas_db.domain.data_state import NO_DATA, NO_DATA_CHANNELS, NO_DATA_CLASSES, NO_DATA_RESOLUTION
from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.objective import VALIDATION_ACCURACY
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.plugins import find_function
from eatnas_protocol.messages import Assign, EpochDone, Failed, Finished, Report, Resumed
from eatnas_training.programs.check import check
from eatnas_training.programs.training import train
from eatnas_training.worker_protocol import StopRequest

MAX_ATTEMPTS: Final = 1000


def check_training(
    reference: str | Callable[..., Any],
    *,
    metric: str = VALIDATION_ACCURACY,
    epochs: int = 3,
    options: Mapping[str, Any] | None = None,
    space: str = "eatnas-tiny",
    seed: int = 7,
    device: str = "cpu",
    **recipe: Any,
) -> dict[str, float]:
    """Train one candidate three times without images, and return its scores by metric.

    `reference` is `module:name` or the function itself; `recipe` are further keys of `training`. Raises
    `AssertionError` if the training fails, if the same seed gives different numbers, or if a training that is stopped
    and resumed at each checkpoint differs from an uninterrupted training.
    """
    if not isinstance(reference, str):
        reference = f"{reference.__module__}:{reference.__qualname__}"
    identity = find_function(reference).identity().to_json()
    check(reference)
    task = Task(NO_DATA_RESOLUTION, NO_DATA_CHANNELS, NO_DATA_CLASSES)
    proposal = Space(PRESETS[space], task).sample(KeyedRng(seed, "check"), lambda _: False)
    with TemporaryDirectory(prefix="eatnas-check-") as folder:
        assign = Assign(
            candidate=1,
            attempt=1,
            code=PRESETS[space].to_code(proposal.architecture),
            macro=PRESETS[space].to_json(),
            task={"resolution": task.resolution, "channels": task.channels, "classes": task.classes},
            data={"name": NO_DATA},
            training={**recipe, "epochs": epochs, "program": identity, "options": dict(options or {})},
            seed=seed,
            checkpoint_folder=folder,
            log_file="",
            objective_metric=metric,
        )
        first = _finish(train(assign, lambda: StopRequest.NONE, device=device))
        second = _finish(train(replace(assign, candidate=2), lambda: StopRequest.NONE, device=device))
        _require_equal(first, second, "two trainings with the same seed differ")
        resumed = _resume_repeatedly(replace(assign, candidate=3), device)
        _require_equal(first, resumed, "a training that was stopped and resumed differs from an uninterrupted one")
    return first[-1]


def _resume_repeatedly(assign: Assign, device: str) -> list[dict[str, float]]:
    """Stop the training at each of its checkpoints, and return the metrics of its epochs."""
    reports: list[Report] = []
    for attempt in range(1, MAX_ATTEMPTS):
        reports = list(train(replace(assign, attempt=attempt), lambda: StopRequest.RELEASE, device=device))
        if isinstance(reports[-1], Finished | Failed):
            break
        stuck = attempt > 1 and not any(isinstance(report, Resumed) and report.path for report in reports)
        assert not stuck, "a stopped training begins from scratch: call report.checkpoint after each report.epoch"
    return _finish(reports)


def _finish(reports: Iterable[Report]) -> list[dict[str, float]]:
    reports = list(reports)
    last = reports[-1]
    assert not isinstance(last, Failed), f"the training failed ({last.kind}): {last.message}\n{last.traceback}"
    assert isinstance(last, Finished), "the training has not ended"
    return [*(_metrics(report) for report in reports if isinstance(report, EpochDone)), dict(last.metrics or {})]


def _metrics(report: EpochDone) -> dict[str, float]:
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")
    columns = {name: getattr(report, name) for name in names}
    return {**{name: value for name, value in columns.items() if value is not None}, **(report.metrics or {})}


def _require_equal(first: list[dict[str, float]], other: list[dict[str, float]], complaint: str) -> None:
    for epoch, (one, two) in enumerate(zip(first, other, strict=True)):
        assert one == two, f"{complaint}: epoch {epoch} has {one} and {two}"
