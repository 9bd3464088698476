"""Connections to an MLflow store: the client, its runs, its address and its error messages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine

from eatnas_db.database.locks import task_lock
from eatnas_db.urls import hide_passwords, sqlite_file
from eatnas_protocol.long_texts import shorten_middle

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run, RunTag
    from mlflow.tracking import MlflowClient

RUNNING: Final = "RUNNING"
SCHEDULED: Final = "SCHEDULED"
"""The status of an unfinished search or candidate on which no daemon is working."""
SEARCH_TAG: Final = "eatnas.summary"
CANDIDATE_TAG: Final = "eatnas.candidate"
RUNS_PER_PAGE: Final = 500
METRICS_PER_BATCH: Final = 800
"""The maximum number of metrics per request. MLflow accepts 1000 items. A smaller batch leaves room for the parameters
and tags of the run.
"""
MAX_NAME_CHARACTERS, MAX_PARAM_CHARACTERS = 250, 500
_INVALID_IN_NAMES: Final = re.compile(r"[^\w. :-]")
"""MLflow refuses other characters in the name of a parameter, and some names with a slash."""
MAX_ERROR_CHARACTERS: Final = 300


def open_store(engine: Engine, tracking_uri: str, log: Callable[[str], None] = lambda _: None) -> MlflowClient:
    """Connect to a store, and create its tables if it is new.

    A lock on the record serializes this function, because two programs that create a store at the same time would
    corrupt it.
    """
    with task_lock(engine, "mlflow", log):
        client = connect(tracking_uri)
        client.search_experiments(max_results=1)
    return client


def connect(tracking_uri: str) -> MlflowClient:
    """Return a client of MLflow without telemetry and without MLflow's own retries."""
    configure_mlflow()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri)


def configure_mlflow() -> None:
    """Set MLflow's environment variables. Call this function before the first import of `mlflow`, which reads the
    variables.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    # Silence MLflow's log, because MLflow also raises each error that it logs.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    # If MLflow repeated a request after a lost answer, it would create a second run. Our own retry searches for the run
    # first.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


def list_runs(client: MlflowClient, experiment_id: str, condition: str = "") -> Iterator[Run]:
    """Yield the runs of an experiment that meet a condition in MLflow's filter syntax."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], condition, max_results=RUNS_PER_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def find_run(client: MlflowClient, experiment_id: str, tag: str, value: str) -> Run | None:
    """Find a run by the value of a tag in an experiment. Return None if there is no such run."""
    return next(list_runs(client, experiment_id, f"tags.`{tag}` = '{value}'"), None)


def log_in_batches(
    client: MlflowClient,
    run_id: str,
    metrics: list[Metric],
    *,
    params: list[Param] | None = None,
    tags: list[RunTag] | None = None,
) -> None:
    """Log metrics, parameters and tags to a run in as few requests as MLflow accepts.

    The tags describe the part of the data that the run contains. They are sent with the last metrics, because stores
    write metrics before tags.
    """
    while len(metrics) > METRICS_PER_BATCH:
        client.log_batch(run_id, metrics=metrics[:METRICS_PER_BATCH])
        metrics = metrics[METRICS_PER_BATCH:]
    client.log_batch(run_id, metrics=metrics, params=params or [], tags=tags or [])


def make_params(values: Mapping[str, Any]) -> list[Param]:
    """Return parameters with names and values that MLflow accepts; the options of a program may have any name."""
    from mlflow.entities import Param

    named = {_INVALID_IN_NAMES.sub("_", name)[:MAX_NAME_CHARACTERS]: value for name, value in values.items()}
    return [Param(name, str(value)[:MAX_PARAM_CHARACTERS]) for name, value in named.items()]


def to_milliseconds(seconds: float) -> int:
    """Convert a Unix time in seconds to milliseconds, the unit of MLflow."""
    return round(seconds * 1000)


def describe_error(tracking_uri: str, error: Exception) -> str:
    """Describe an error in one line: the store, the class of the error and the first line of its message."""
    first_line = (str(error).splitlines() or [""])[0]
    message = f"MLflow at {tracking_uri}: {type(error).__name__}: {first_line}"
    return shorten_middle(hide_passwords(message, tracking_uri), MAX_ERROR_CHARACTERS)


def suggest_repair(tracking_uri: str) -> str:
    """Return advice for a store that cannot be used."""
    if sqlite_file(tracking_uri) is None:
        return "searches run without MLflow; repair or start the store, then run `eatnas-db mlflow sync`"
    return "if the error persists, `eatnas-db mlflow sync --rebuild` renames the file and writes a new store"


def identify_store_file(tracking_uri: str) -> tuple[int, int] | None:
    """Return the device and inode of an SQLite store's file; None if there is no such file."""
    file = sqlite_file(tracking_uri)
    if file is None:
        return None
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def find_artifact_folder(tracking_uri: str) -> Path | None:
    """Return the artifact folder next to an SQLite store; None for a server, which stores artifacts itself."""
    file = sqlite_file(tracking_uri)
    return None if file is None else file.absolute().parent / "mlflow-artifacts"
