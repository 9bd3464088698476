"""Define the view that MLflow opens for the runs of an experiment, with columns for fitness, metric and cost."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from eatnas_db.domain.objective import VALIDATION_ACCURACY

KIND_TAG: Final = "mlflow.experimentKind"
TRAINING: Final = "custom_model_development"
"""The kind of experiment whose page in MLflow first shows the table of runs."""
VIEW_TAG: Final = "mlflow.sharedViewState."


@dataclass(frozen=True, slots=True)
class RunsView:
    """The view of a search's runs. Its columns are fitness, the metric that the search optimizes, and cost."""

    metric: str = VALIDATION_ACCURACY

    @property
    def content(self) -> str:
        """The view as MLflow stores it."""
        return json.dumps(
            {
                "searchFilter": "",
                "orderByKey": "metrics.`fitness`",
                "orderByAsc": False,
                "startTime": "ALL",
                "lifecycleFilter": "Active",
                "datasetsFilter": [],
                "modelVersionFilter": "All Runs",
                "selectedColumns": [f"metrics.`{name}`" for name in ("fitness", self.metric, "mult_adds", "params")],
            },
            sort_keys=True,
        )

    @property
    def key(self) -> str:
        """The key of the view in the URLs of MLflow's pages."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    @property
    def tags(self) -> dict[str, str]:
        """The tags of an experiment that store the view."""
        return {KIND_TAG: TRAINING, VIEW_TAG + self.key: self.content}

    def link(self, base_url: str, experiment_id: str) -> ViewLink:
        """Return a link to the view of an experiment's runs."""
        metric = "accuracy" if self.metric == VALIDATION_ACCURACY else self.metric
        url = f"{base_url}/#/experiments/{experiment_id}/runs?viewStateShareKey={self.key}"
        return ViewLink(f"fitness, {metric} and cost", url)


@dataclass(frozen=True, slots=True)
class ViewLink:
    """The URL of a view, and its columns in words."""

    columns: str
    url: str
