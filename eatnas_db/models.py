"""Load trained models into Python. The first call imports torch."""

from __future__ import annotations

import os
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from eatnas_db.artifact_paths import find_artifact
from eatnas_db.database.engine import read_connection
from eatnas_db.errors import NotFoundError
from eatnas_db.queries.candidate_ids import parse_candidate_id
from eatnas_db.queries.trained_models import TrainedModel, find_best_model, get_trained_model
from eatnas_db.settings import Settings, load_settings

LOADING_MODULE: Final = "eatnas_training.export.loading"
"""The module that loads models; it is imported by name, because the record must not depend on torch."""


def load_model(model: str | Path | int, *, home: str | Path | None = None, features_only: bool = False) -> Any:
    """Return a trained network as a `torch.nn.Module` in evaluation mode, on the CPU.

    `model` is a file that `eatnas-db export` wrote (`.safetensors`, `.pt2` or `.py`), or the id of a candidate of the
    record in `home`. By default, `home` is the home of the command line. `model.preprocess` is a torchvision transform
    from an image to an input, and `model.classes` holds the names of the classes. With `features_only` the module
    returns the feature maps of the stages, and `model.feature_info` describes them.

    Raises `EatnasError`, for example if the weights of the candidate were not kept.
    """
    loading = import_module(LOADING_MODULE)
    if isinstance(model, str | Path):
        return loading.load_model_file(Path(model), features_only=features_only)
    settings = load_settings(os.environ, home=None if home is None else str(home))
    with read_connection(settings.database_url) as connection:
        trained = get_trained_model(connection, model)
    request = {**export_fields(settings, trained), "targets": {}}
    return loading.load_checkpoint(request, features_only=features_only)


def find_model(settings: Settings, model: str) -> TrainedModel:
    """Return the model of a candidate (by its id) or the best model of a search (by its name). Raises `EatnasError`."""
    with read_connection(settings.database_url) as connection:
        candidate_id = parse_candidate_id(model)
        if candidate_id is None:
            candidate_id = find_best_model(connection, model)
        return get_trained_model(connection, candidate_id)


def export_fields(settings: Settings, model: TrainedModel) -> dict[str, Any]:
    """Return the fields of an `ExportRequest` that describe a model.

    Raises `NotFoundError` if the checkpoint of the model is missing.
    """
    checkpoint = find_artifact(settings.artifacts, model.checkpoint)
    if checkpoint is None or not checkpoint.is_file():
        elsewhere = "" if model.host == settings.host else f", or export on {model.host}, which trained it"
        raise NotFoundError(
            f"the weights of candidate {model.candidate_id} are not in this home: "
            f"{settings.artifacts / model.checkpoint} is missing; restore the file{elsewhere}"
        )
    return {"model": asdict(model), "data": settings.locate_data(model.data), "checkpoint": str(checkpoint)}
