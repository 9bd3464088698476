"""Log exported networks to MLflow as models of their candidates' runs, and register them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Engine

from eatnas_daemon.mlflow.client import CANDIDATE_TAG, configure_mlflow, describe_error, find_run, open_store
from eatnas_daemon.mlflow.sync import sync
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import RecordError
from eatnas_db.queries.record_uuid import get_record_uuid
from eatnas_db.queries.trained_models import TrainedModel

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.models import ModelSignature
    from mlflow.tracking import MlflowClient

NAME: Final = "model"
"""The name of the model in its run."""
CODE: Final = Path(__file__).with_name("pyfunc_model.py")
REQUIREMENTS: Final = ("torch", "safetensors", "numpy", "pillow")
"""The packages that the exported module imports."""


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A model in MLflow: its URI and, if it is registered, its version."""

    uri: str
    version: str | None


def log_model(
    engine: Engine, tracking_uri: str, model: TrainedModel, *, module: Path, weights: Path, register: str | None
) -> LoggedModel:
    """Log an exported module and its weights to the run of the candidate. If `register` is given, register the model
    under this name.

    If MLflow does not have the run yet, write the run first. Raises `RecordError` if MLflow is not usable or refuses
    the name.
    """
    configure_mlflow()
    from mlflow.exceptions import MlflowException

    sync(engine, tracking_uri, pictures=False)
    try:
        client = open_store(engine, tracking_uri)
        return _log_model(client, _find_run(engine, client, model), module, weights, register)
    except (ImportError, MlflowException) as error:
        raise RecordError(describe_error(tracking_uri, error)) from error


def _find_run(engine: Engine, client: MlflowClient, model: TrainedModel) -> Run:
    with read_transaction(engine) as connection:
        record_uuid = get_record_uuid(connection)
    condition = f"tags.`eatnas.record` = '{record_uuid}' AND tags.`eatnas.search` = '{model.search}'"
    # A deleted search of the same name may have left an experiment too.
    for experiment in client.search_experiments(filter_string=condition):
        run = find_run(client, str(experiment.experiment_id), CANDIDATE_TAG, f"{record_uuid}/{model.candidate_id}")
        if run is not None:
            return run
    raise RecordError(f"MLflow has no run of candidate {model.candidate_id}; `eatnas-db mlflow sync` writes it")


def _log_model(client: MlflowClient, run: Run, module: Path, weights: Path, register: str | None) -> LoggedModel:
    import mlflow
    from mlflow.models import Model

    mlflow.set_tracking_uri(client.tracking_uri)
    mlflow.set_registry_uri(client.tracking_uri)
    # Set the experiment, because it decides where MLflow stores the files of the model.
    mlflow.set_experiment(experiment_id=run.info.experiment_id)
    # Hide MLflow's progress bars and its advice on model code, because they do not concern our users.
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logged = Model.log(
            artifact_path=None,
            name=NAME,
            flavor=mlflow.pyfunc,
            run_id=run.info.run_id,
            registered_model_name=register,
            python_model=str(CODE),
            artifacts={"module": str(module), "weights": str(weights)},
            signature=_signature(),
            pip_requirements=list(_requirements(REQUIREMENTS)),
        )
    return LoggedModel(logged.model_uri, logged.registered_model_version)


def _signature() -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema([ColSpec(DataType.string, "label"), ColSpec(DataType.double, "probability")]),
    )


def _requirements(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        yield f"{name}=={version(name).partition('+')[0]}"
