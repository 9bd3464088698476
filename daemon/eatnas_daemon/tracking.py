"""MLflow as a view of the record: written from it, never read back into it, and rebuilt when it is lost."""

from __future__ import annotations

import argparse
import json
import os
import re
import select as waiting
import signal
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from sqlalchemy import Engine, func, select, union

from eatnas_db.database import Horizon, alone, open_record, reading, watch_changes
from eatnas_db.domain.states import State
from eatnas_db.errors import EatnasError, RecordError
from eatnas_db.schema import architecture, attempt, candidate, epoch, event, lease, record, search

BATCH: Final = 800
"""Metrics in one call. MLflow takes 1000 things at a time, and a run's parameters and tags go with its last metrics."""
PAGE: Final = 500
LONGEST_TAG: Final = 5000
LONGEST_LINE: Final = 300
EPOCH_METRICS: Final = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
MARKS: Final = ("eatnas.state", "eatnas.attempt", "eatnas.epochs")
"""The tags that say how far a run has been written."""
STATUSES: Final = {State.SCORED: "FINISHED", State.FAILED: "FAILED", State.CANCELLED: "KILLED"}
RUNNING: Final = "RUNNING"
EVERY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Run:
    """A run that MLflow has, and how far it has been written."""

    run_id: str
    status: str
    marks: dict[str, str]


@dataclass(frozen=True, slots=True)
class Experiment:
    """Where the runs of a search go, and the recipe that they share."""

    experiment_id: str
    recipe: dict[str, Any]


class Mirror:
    """Writes to MLflow what it lacks, and remembers what it has: later looks cost what has changed since.

    Every write can be repeated: experiments and runs are found by their tags, and MLflow keeps an equal metric
    once. After an error a new mirror goes on from what is there.
    """

    def __init__(self, engine: Engine, client: Any) -> None:
        self._engine, self._client = engine, client
        with reading(engine) as connection:
            self._uuid = str(connection.execute(select(record.c.uuid)).scalar_one())
        self._horizon = Horizon()
        self._seen: int | None = None
        self._experiments: dict[int, Experiment] = {}
        self._runs: dict[str, Run] = {}

    def look(self) -> int:
        """Bring MLflow up to date. How many runs were written."""
        # Two that find a run missing at once would both create it.
        with alone(self._engine, "mlflow"):
            newest = self._horizon.look(self._engine)
            with reading(self._engine) as connection:
                ids = sorted(connection.execute(_changed_since(self._seen)).scalars())
                searches = connection.execute(select(search).where(search.c.id.not_in(self._experiments))).all()
            for row in searches:
                self._meet(row)
            written = 0
            for begin in range(0, len(ids), PAGE):
                # By id: parents come before their children.
                for one in _read(self._engine, ids[begin : begin + PAGE]):
                    written += self._bring_up_to_date(one)
            self._seen = newest
        return written

    def _meet(self, row: Any) -> None:
        from mlflow.entities import ViewType

        mine = f"tags.`eatnas.record` = '{self._uuid}' AND tags.`eatnas.search` = '{row.name}'"
        facts = {"eatnas.record": self._uuid, "eatnas.search": row.name, **_facts(row)}
        found = self._client.search_experiments(view_type=ViewType.ALL, max_results=1, filter_string=mine)
        if found:
            experiment_id = str(found[0].experiment_id)
            if found[0].lifecycle_stage == "deleted":
                self._client.restore_experiment(experiment_id)
            for run in self._list(experiment_id):
                if key := run.data.tags.get("eatnas.candidate"):
                    self._runs[key] = _known(run)
        else:
            name = f"eatnas/{row.name}"
            if self._client.get_experiment_by_name(name) is not None:  # another record's
                name = f"{name} ({self._uuid[:8]})"
            experiment_id = str(self._client.create_experiment(name, tags=facts))
        self._experiments[row.id] = Experiment(experiment_id, row.spec["training"])

    def _list(self, experiment_id: str, condition: str = "") -> Iterator[Any]:
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment_id], condition, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _bring_up_to_date(self, one: Any) -> bool:
        key = f"{self._uuid}/{one.id}"
        run = self._runs.get(key)
        status, marks = STATUSES.get(State(one.state), RUNNING), _marks(one)
        if run is not None and (run.status, run.marks) == (status, marks):
            return False
        experiment = self._experiments[one.search_id]
        run = run or self._find_or_create(experiment.experiment_id, key, one)
        self._write(run, one, status, experiment.recipe)
        self._runs[key] = Run(run.run_id, status, marks)
        return True

    def _find_or_create(self, experiment_id: str, key: str, one: Any) -> Run:
        if self._seen is not None:  # somebody else may have written it since all runs were listed
            for run in self._list(experiment_id, f"tags.`eatnas.candidate` = '{key}'"):
                return _known(run)
        return _known(
            self._client.create_run(
                experiment_id,
                start_time=_milliseconds(one.started_at),
                tags={"eatnas.candidate": key},
                run_name=f"birth {one.birth}",
            )
        )

    def _write(self, run: Run, one: Any, status: str, recipe: dict[str, Any]) -> None:
        from mlflow.entities import Param, RunTag

        metrics = _metrics(self._engine, one, int(run.marks.get("eatnas.epochs", 0)))
        while len(metrics) > BATCH:
            self._client.log_batch(run.run_id, metrics=metrics[:BATCH])
            metrics = metrics[BATCH:]
        parent = self._runs.get(f"{self._uuid}/{one.parent_id}")
        family = {} if parent is None else {"mlflow.parentRunId": parent.run_id}
        tags = {**family, "eatnas.birth": str(one.birth), **_marks(one)}
        # Stores write metrics before tags, so that the marks never tell of more than there is.
        self._client.log_batch(
            run.run_id,
            metrics=metrics,
            params=[Param(key, str(value)) for key, value in _params(one, recipe).items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        if status != RUNNING:
            self._client.set_terminated(run.run_id, status, end_time=_milliseconds(one.ended_at))
        elif run.status != RUNNING:
            self._client.update_run(run.run_id, status=status)


def sync(engine: Engine, tracking_uri: str) -> int:
    """Bring an MLflow store up to date with the whole record. How many runs were written.

    Raises `RecordError` where MLflow cannot be reached or used.
    """
    _silence_mlflow()
    from mlflow.exceptions import MlflowException

    try:
        return Mirror(engine, connect(tracking_uri)).look()
    except (ImportError, MlflowException) as error:  # a missing driver is an ImportError
        raise RecordError(_in_words(tracking_uri, error)) from error


def follow(engine: Engine, tracking_uri: str, every: float = EVERY_SECONDS) -> None:
    """Look whenever the record has changed, until the parent ends. MLflow's errors are told and tried again."""
    parent = os.getppid()
    watch = watch_changes(engine)
    mirror: Mirror | None = None
    store: tuple[int, int] | None = None
    due = told = ended = False
    while True:
        # The last round comes after the end, so that what was written last is there too.
        ended = ended or os.getppid() != parent
        due = watch.changed() or due
        if mirror is not None and _store_file(tracking_uri) != store:
            # MLflow keeps a deleted file open and would go on writing into it: begin again.
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606
        if due:
            try:
                mirror = mirror or Mirror(engine, connect(tracking_uri))
                mirror.look()
                store = _store_file(tracking_uri)
                due = told = False
            except Exception as error:  # whatever MLflow, its store or its network throws: it must never end a search
                mirror = None
                if not told:
                    print(_in_words(tracking_uri, error), file=sys.stderr, flush=True)
                told = True
        if ended:
            break
        ended = _input_ended(every)
    watch.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Follow a record in a child process. Addresses may hold passwords, so they come by the environment."""
    parser = argparse.ArgumentParser(
        prog="python -m eatnas_daemon.tracking",
        description=f"{__doc__} EATNAS_DB_URL says where the record is, MLFLOW_TRACKING_URI where MLflow is.",
    )
    parser.add_argument("--every", type=float, default=EVERY_SECONDS, help="seconds between two looks")
    options = parser.parse_args(arguments)
    database_url, tracking_uri = os.environ.get("EATNAS_DB_URL"), os.environ.get("MLFLOW_TRACKING_URI")
    if not database_url or not tracking_uri:
        parser.error("set EATNAS_DB_URL and MLFLOW_TRACKING_URI")
    signal.signal(signal.SIGTERM, _leave)
    try:
        follow(open_record(database_url), tracking_uri, options.every)
    except EatnasError as error:
        sys.exit(str(error))


def connect(tracking_uri: str) -> Any:
    """MLflow's own client, without telemetry, and quick to say that nobody answers."""
    _silence_mlflow()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri)


def masked(text: str) -> str:
    """The same text with the passwords of its addresses struck out."""
    return re.sub(r"(://[^\s:/@]*):\S*@", r"\1:***@", text)


def _silence_mlflow() -> None:
    """Before MLflow is loaded, which reads its environment then."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # A request that is sent again after a lost answer would create a run twice; we look it up first.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


def _in_words(tracking_uri: str, error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return masked(f"MLflow at {tracking_uri}: {type(error).__name__}: {first}")[:LONGEST_LINE]


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _input_ended(seconds: float) -> bool:
    """Wait; whether the pipe that is our standard input was closed meanwhile."""
    try:
        piped = stat.S_ISFIFO(os.fstat(0).st_mode)
    except OSError:
        piped = False
    if not piped:
        time.sleep(seconds)
        return False
    ready, _, _ = waiting.select([0], [], [], seconds)
    return bool(ready) and os.read(0, 4096) == b""


def _store_file(tracking_uri: str) -> tuple[int, int] | None:
    """Which file an SQLite store is at the moment."""
    try:
        found = Path(tracking_uri.removeprefix("sqlite:///")).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _changed_since(seen: int | None) -> Any:
    """Which candidates may differ from what they were: those with newer events, and those in training."""
    if seen is None:
        return select(candidate.c.id).where(candidate.c.attempt > 0)
    moved = select(event.c.candidate_id).where(event.c.id > seen, event.c.candidate_id.is_not(None))
    return union(moved, select(lease.c.candidate_id))


def _read(engine: Engine, ids: Sequence[int]) -> Sequence[Any]:
    started = select(func.min(attempt.c.started_at)).where(attempt.c.candidate_id == candidate.c.id)
    epochs = select(func.coalesce(func.max(epoch.c.number) + 1, 0)).where(epoch.c.candidate_id == candidate.c.id)
    query = (
        select(
            candidate,
            architecture.c.genotype,
            started.scalar_subquery().label("started_at"),
            epochs.scalar_subquery().label("epochs"),
        )
        .join(architecture)
        .where(candidate.c.id.in_(ids), candidate.c.attempt > 0)
        .order_by(candidate.c.id)
    )
    with reading(engine) as connection:
        return connection.execute(query).all()


def _facts(row: Any) -> dict[str, str]:
    space = row.spec["space"] if isinstance(row.spec["space"], str) else "a space of its own"
    note = f"Search {row.name}: {space} on {row.spec['data']['name']}, seed {row.seed}, written by eatnas-db."
    return {
        "eatnas.space": space,
        "eatnas.seed": str(row.seed),
        "eatnas.spec": json.dumps(row.spec, sort_keys=True)[:LONGEST_TAG],
        "mlflow.note.content": note,
    }


def _known(run: Any) -> Run:
    marks = {key: run.data.tags[key] for key in MARKS if key in run.data.tags}
    return Run(run.info.run_id, run.info.status, marks)


def _marks(one: Any) -> dict[str, str]:
    return dict(zip(MARKS, (one.state, str(one.attempt), str(one.epochs)), strict=True))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _params(one: Any, recipe: dict[str, Any]) -> dict[str, Any]:
    blocks = {f"block{number}": text for number, text in enumerate(one.genotype.split("/"), 1)}
    return {**recipe, **blocks, "params": one.params, "mult_adds": one.mult_adds, "origin": one.origin}


def _metrics(engine: Engine, one: Any, first: int) -> list[Any]:
    from mlflow.entities import Metric

    query = select(epoch).where(epoch.c.candidate_id == one.id, epoch.c.number >= first, epoch.c.number < one.epochs)
    with reading(engine) as connection:
        rows = connection.execute(query.order_by(epoch.c.number)).all()
    metrics = [
        Metric(key, getattr(row, key), _milliseconds(row.ended_at), row.number) for row in rows for key in EPOCH_METRICS
    ]
    if one.fitness is not None:
        metrics.append(Metric("fitness", one.fitness, _milliseconds(one.ended_at), max(one.epochs - 1, 0)))
    return metrics


if __name__ == "__main__":
    main()
