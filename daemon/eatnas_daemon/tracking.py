"""MLflow as a view of the record: written from it, never read back into it, and rebuilt when it is lost."""

from __future__ import annotations

import argparse
import os
import select as waiting
import signal
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from sqlalchemy import Engine, func, select

from eatnas_db.database import ChangeWatch, open_record, reading
from eatnas_db.domain.states import State
from eatnas_db.schema import architecture, attempt, candidate, epoch, record, search

BATCH: Final = 1000
"""The most metrics that MLflow takes in one call."""
EPOCH_METRICS: Final = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
STATUSES: Final = {State.SCORED: "FINISHED", State.FAILED: "FAILED", State.CANCELLED: "KILLED"}
RUNNING: Final = "RUNNING"
EVERY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Known:
    """A run that MLflow has already."""

    run_id: str
    status: str
    tags: dict[str, str]


def sync(engine: Engine, tracking_uri: str) -> int:
    """Bring an MLflow store up to date with the record. How many runs were written.

    Every write can be repeated: a run is found again by its tag, and MLflow keeps an equal metric once.
    """
    client = _client(tracking_uri)
    with reading(engine) as connection:
        uuid = str(connection.execute(select(record.c.uuid)).scalar_one())
        searches = connection.execute(select(search.c.id, search.c.name, search.c.spec).order_by(search.c.id)).all()
    return sum(_sync_search(engine, client, uuid, row) for row in searches)


def follow(engine: Engine, tracking_uri: str, every: float = EVERY_SECONDS) -> None:
    """Sync whenever the record has changed, until the parent ends. MLflow's errors are told and tried again."""
    parent = os.getppid()
    watch = ChangeWatch(engine)
    due = False
    try:
        while True:
            # The last round comes after the end, so that what the parent wrote last is there too.
            ended = os.getppid() != parent
            due = watch.changed() or due
            if due:
                due = not _tried(engine, tracking_uri)
            if ended or _input_ended(every):
                return
    finally:
        watch.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Follow a record from the command line of a child process."""
    parser = argparse.ArgumentParser(prog="python -m eatnas_daemon.tracking", description=__doc__)
    parser.add_argument("--db", required=True, help="URL of the record")
    parser.add_argument("--mlflow", required=True, help="tracking URI")
    parser.add_argument("--every", type=float, default=EVERY_SECONDS, help="seconds between two looks")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    follow(open_record(options.db), options.mlflow, options.every)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _tried(engine: Engine, tracking_uri: str) -> bool:
    try:
        sync(engine, tracking_uri)
    except Exception as error:  # whatever MLflow, its store or its network throws: it must never end a search
        first = (str(error).splitlines() or [""])[0]
        print(f"MLflow at {tracking_uri}: {type(error).__name__}: {first}", file=sys.stderr, flush=True)
        return False
    return True


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


def _client(tracking_uri: str) -> Any:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri)


def _sync_search(engine: Engine, client: Any, uuid: str, row: Any) -> int:
    candidates = _tried_candidates(engine, row.id)
    experiment_id = _experiment(client, row.name, uuid)
    known = _known_runs(client, experiment_id)
    written = 0
    for one in candidates:  # by birth: parents come before their children
        key = f"{uuid}/{one.id}"
        run = known.get(key)
        if run is not None and _up_to_date(run, one):
            continue
        if run is None:
            run = known[key] = _create(client, experiment_id, key, one)
        parent = known.get(f"{uuid}/{one.parent_id}")
        _write(engine, client, run, one, row.spec["training"], parent)
        written += 1
    return written


def _tried_candidates(engine: Engine, search_id: int) -> Sequence[Any]:
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
        .where(candidate.c.search_id == search_id, candidate.c.attempt > 0)
        .order_by(candidate.c.birth)
    )
    with reading(engine) as connection:
        return connection.execute(query).all()


def _experiment(client: Any, name: str, uuid: str) -> str:
    found = client.get_experiment_by_name(f"eatnas/{name}")
    if found is None:
        return str(client.create_experiment(f"eatnas/{name}", tags={"eatnas.record": uuid}))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _known_runs(client: Any, experiment_id: str) -> dict[str, Known]:
    known: dict[str, Known] = {}
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], max_results=BATCH, page_token=token)
        for run in page:
            tags = dict(run.data.tags)
            if "eatnas.candidate" in tags:
                known[tags["eatnas.candidate"]] = Known(run.info.run_id, run.info.status, tags)
        token = page.token
        if not token:
            return known


def _up_to_date(run: Known, one: Any) -> bool:
    return run.status == _status(one) and all(run.tags.get(key) == value for key, value in _marks(one).items())


def _marks(one: Any) -> dict[str, str]:
    """The tags that say how far a run has been written."""
    return {"eatnas.synced": one.state, "eatnas.attempt": str(one.attempt), "eatnas.epochs": str(one.epochs)}


def _status(one: Any) -> str:
    return STATUSES.get(State(one.state), RUNNING)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _create(client: Any, experiment_id: str, key: str, one: Any) -> Known:
    run = client.create_run(
        experiment_id,
        start_time=_milliseconds(one.started_at),
        tags={"eatnas.candidate": key},
        run_name=f"birth {one.birth}",
    )
    return Known(run.info.run_id, run.info.status, {})


def _write(engine: Engine, client: Any, run: Known, one: Any, recipe: dict[str, Any], parent: Known | None) -> None:
    from mlflow.entities import Param, RunTag

    status = _status(one)
    if status != RUNNING:
        client.set_terminated(run.run_id, status, end_time=_milliseconds(one.ended_at))
    elif run.status != RUNNING:
        client.update_run(run.run_id, status=status)
    metrics = list(_metrics(engine, one, int(run.tags.get("eatnas.epochs", 0))))
    for begin in range(0, len(metrics), BATCH):
        client.log_batch(run.run_id, metrics=metrics[begin : begin + BATCH])
    params = [Param(key, str(value)) for key, value in _params(one, recipe).items()]
    # The marks come last: what was cut off before them is written again.
    tags = [RunTag(key, value) for key, value in _tags(one, parent).items()]
    client.log_batch(run.run_id, params=params, tags=tags)


def _params(one: Any, recipe: dict[str, Any]) -> dict[str, Any]:
    blocks = {f"block{number}": text for number, text in enumerate(one.genotype.split("/"), 1)}
    return {**recipe, **blocks, "params": one.params, "mult_adds": one.mult_adds, "origin": one.origin}


def _tags(one: Any, parent: Known | None) -> dict[str, str]:
    family = {} if parent is None else {"mlflow.parentRunId": parent.run_id}
    return {**family, "eatnas.birth": str(one.birth), "eatnas.state": one.state, **_marks(one)}


def _metrics(engine: Engine, one: Any, first: int) -> Iterator[Any]:
    from mlflow.entities import Metric

    query = select(epoch).where(epoch.c.candidate_id == one.id, epoch.c.number >= first, epoch.c.number < one.epochs)
    with reading(engine) as connection:
        rows = connection.execute(query.order_by(epoch.c.number)).all()
    for row in rows:
        for key in EPOCH_METRICS:
            yield Metric(key, getattr(row, key), _milliseconds(row.ended_at), row.number)
    if one.fitness is not None:
        yield Metric("fitness", one.fitness, _milliseconds(one.ended_at), max(one.epochs - 1, 0))


if __name__ == "__main__":
    main()
