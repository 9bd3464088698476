"""The metrics that MLflow shows for a candidate's epochs and for its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from eatnas_daemon.devices.model import CPU
from eatnas_daemon.mlflow.client import to_milliseconds
from eatnas_db.domain.objective import LATENCY
from eatnas_db.queries.attempted_candidates import AttemptedCandidate
from eatnas_db.queries.candidates import CandidateEpoch

if TYPE_CHECKING:
    from mlflow.entities import Metric

EPOCH_METRICS: Final = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
SCORE_METRICS: Final = (
    "fitness",
    "device_seconds",
    "params",
    "mult_adds",
    "share_inherited",
    "lineage_epochs",
    LATENCY,
)
"""`params` and `mult_adds` are also parameters of the run, but MLflow sorts and plots only metrics by value."""


def epoch_metrics(epochs: Sequence[CandidateEpoch], device_kind: str) -> list[Metric]:
    """Return the metrics of some epochs, each with the epoch's number and end time."""
    from mlflow.entities import Metric

    return [
        Metric(key, value, to_milliseconds(epoch.ended_at), epoch.number)
        for epoch in epochs
        for key, value in _epoch_values(epoch, device_kind).items()
        if value is not None
    ]


def score_metrics(candidate: AttemptedCandidate) -> list[Metric]:
    """Return the metrics of a candidate's score, with the number of the last epoch; an empty list without a score."""
    from mlflow.entities import Metric

    if candidate.fitness is None or candidate.ended_at is None:
        return []
    scored_at, last_epoch = to_milliseconds(candidate.ended_at), max(candidate.epochs - 1, 0)
    values = {key: getattr(candidate, key) for key in SCORE_METRICS}
    return [Metric(key, float(value), scored_at, last_epoch) for key, value in values.items() if value is not None]


def _epoch_values(epoch: CandidateEpoch, device_kind: str) -> dict[str, float | None]:
    # MLflow shows names that begin with `system/` on its page "System metrics".
    source = "worker" if device_kind == CPU else "gpu"
    return {
        **{key: getattr(epoch, key) for key in EPOCH_METRICS},
        **(epoch.metrics or {}),
        f"system/{source}_memory_usage_megabytes": None if epoch.memory_bytes is None else epoch.memory_bytes / 1e6,
        f"system/{source}_utilization_percentage": None if epoch.load is None else 100 * epoch.load,
    }
