"""The view of an experiment's runs that MLflow opens: the training view, with fitness, accuracy and cost as columns."""

from __future__ import annotations

import hashlib
import json
from typing import Final

KIND_TAG: Final = "mlflow.experimentKind"
TRAINING: Final = "custom_model_development"
"""The kind of experiment whose page opens on the table of its runs."""
VIEW_TAG: Final = "mlflow.sharedViewState."
COLUMNS: Final = ("fitness", "val_accuracy", "mult_adds", "params")
"""The metrics of a candidate that the table of runs shows."""
VIEW: Final = json.dumps(
    {
        "searchFilter": "",
        "orderByKey": "metrics.`fitness`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [f"metrics.`{name}`" for name in COLUMNS],
    },
    sort_keys=True,
)
VIEW_KEY: Final = hashlib.sha256(VIEW.encode()).hexdigest()
EXPERIMENT_TAGS: Final = {KIND_TAG: TRAINING, VIEW_TAG + VIEW_KEY: VIEW}


def link_to_view(base_url: str, experiment_id: str) -> str:
    """Return the address of the prepared view of an experiment's runs."""
    return f"{base_url}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW_KEY}"
