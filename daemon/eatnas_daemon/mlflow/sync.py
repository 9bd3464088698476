"""MLflow as a view of the record: written from it, never read back into it, and rebuilt when it is lost."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select, union

from eatnas_daemon import lock
from eatnas_daemon.devices.model import CPU
from eatnas_daemon.follower import follow
from eatnas_daemon.mlflow.architecture_drawing import describe_architecture, draw_architecture
from eatnas_daemon.mlflow.search_runs import KEY, RUNNING, WAITING, Painter, SearchRuns, introduction, log_all
from eatnas_db.database.changes import EventWatermark
from eatnas_db.database.dialects import on_server
from eatnas_db.database.engine import open_record
from eatnas_db.database.locks import alone, living_hosts
from eatnas_db.database.transactions import reading
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.states import CandidateState
from eatnas_db.errors import EatnasError, RecordError
from eatnas_db.queries.searches import SearchRecord, list_searches
from eatnas_db.schema.candidates import architecture, candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.record import record
from eatnas_db.schema.trainings import attempt, epoch, lease

PAGE: Final = 500
LONGEST_TAG: Final = 5000
LONGEST_LINE: Final = 300
EPOCH_METRICS: Final = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
SYSTEM_METRICS: Final = {
    of: (f"system/{of}_memory_usage_megabytes", f"system/{of}_utilization_percentage") for of in ("worker", "gpu")
}
SCORE_METRICS: Final = ("fitness", "device_seconds", "params", "mult_adds", "share_inherited", "lineage_epochs")
"""As metrics too where they are params, so that MLflow sorts and draws them by size."""
MARKS: Final = ("eatnas.state", "eatnas.attempt", "eatnas.epochs")
"""The tags that say how far a run has been written."""
STATUSES: Final = {
    CandidateState.SCORED: "FINISHED",
    CandidateState.FAILED: "FAILED",
    CandidateState.CANCELLED: "KILLED",
    CandidateState.LEASED: RUNNING,
    CandidateState.PENDING: WAITING,
}
ABANDONED: Final = "KILLED"
"""In training for a supervisor that is gone; it goes on when there is one."""
ENDED: Final = ("FINISHED", "FAILED", "KILLED")
EVERY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Run:
    """A run that MLflow has, and how far it has been written."""

    run_id: str
    status: str
    marks: dict[str, str]
    drawn: bool


@dataclass(frozen=True, slots=True)
class Experiment:
    """Where the runs of a search go, and what they share."""

    experiment_id: str
    recipe: dict[str, Any]
    macro: Macro
    task: Task


def _to_stderr(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


class MlflowSync:
    """Writes to MLflow what it lacks, and remembers what it has: later looks cost what has changed since.

    Every write can be repeated: experiments and runs are found by their tags, and MLflow keeps an equal metric
    once. After an error a new mirror goes on from what is there.
    """

    def __init__(
        self,
        engine: Engine,
        client: Any,
        painter: Painter | None = None,
        tell: Callable[[str], None] = _to_stderr,
    ) -> None:
        self._engine, self._client, self._tell = engine, client, tell
        with reading(engine) as connection:
            self._uuid = str(connection.execute(select(record.c.uuid)).scalar_one())
        self._horizon = EventWatermark()
        self._seen: int | None = None
        self._experiments: dict[int, Experiment] = {}
        self._runs: dict[str, Run] = {}
        self._takes_files = True
        self._summaries = SearchRuns(engine, client, self._uuid, painter, tell)

    def look(self, leaving: int | None = None) -> int:
        """Bring MLflow up to date. How many candidates' runs were written.

        `leaving`: the pid of a supervisor that is about to end, and no longer works on anything.
        """
        # Two that find a run missing at once would both create it.
        with alone(self._engine, "mlflow"):
            newest = self._horizon.look(self._engine)
            with reading(self._engine) as connection:
                ids = sorted(connection.execute(_changed_since(self._seen)).scalars())
                records = list_searches(connection)
                living = _living(connection, leaving)
            for row in records:
                if row.id not in self._experiments:
                    self._meet(row)
            written = 0
            for begin in range(0, len(ids), PAGE):
                # By id: parents come before their children.
                for one in _read(self._engine, ids[begin : begin + PAGE]):
                    written += self._bring_up_to_date(one, living)
            self._summaries.look(
                records,
                lambda number: self._experiments[number].experiment_id,
                self._run_of,
                self._find,
                worked_on=living is None or bool(living),
            )
            self._seen = newest
        return written

    def illustrate(self, *, at_once: bool = False) -> None:
        """Renew the searches' pictures and reports where it is time for that, or all that are old `at_once`."""
        self._summaries.illustrate(at_once=at_once)

    def _run_of(self, candidate_id: int) -> str | None:
        run = self._runs.get(f"{self._uuid}/{candidate_id}")
        return None if run is None else run.run_id

    def _meet(self, row: SearchRecord) -> None:
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
                elif KEY in run.data.tags:
                    self._summaries.recognize(run)
        else:
            name = f"eatnas/{row.name}"
            if self._client.get_experiment_by_name(name) is not None:  # another record's
                name = f"{name} ({self._uuid[:8]})"
            folder = _files_beside(self._client.tracking_uri)
            location = None if folder is None else (folder / f"{self._uuid[:8]}-{row.name}").as_uri()
            experiment_id = str(self._client.create_experiment(name, location, tags=facts))
        self._experiments[row.id] = Experiment(
            experiment_id, row.spec["training"], Macro.from_json(row.macro), Task(**row.task)
        )

    def _list(self, experiment_id: str, condition: str = "") -> Iterator[Any]:
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment_id], condition, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _bring_up_to_date(self, one: Any, living: frozenset[int] | None) -> bool:
        key = f"{self._uuid}/{one.id}"
        run = self._runs.get(key)
        status, marks = STATUSES[CandidateState(one.state)], _marks(one)
        if one.state == CandidateState.LEASED and living is not None and one.lease_host not in living:
            status = ABANDONED
        if run is not None and (run.status, run.marks) == (status, marks) and (run.drawn or not self._takes_files):
            return False
        experiment = self._experiments[one.search_id]
        run = run or self._find_or_create(experiment.experiment_id, key, one)
        drawn = run.drawn or (self._takes_files and self._draw(run.run_id, one, experiment))
        self._write(run, one, status, drawn, experiment.recipe)
        self._runs[key] = Run(run.run_id, status, marks, drawn)
        return True

    def _find_or_create(self, experiment_id: str, key: str, one: Any) -> Run:
        if self._seen is not None:  # somebody else may have written it since all runs were listed
            found = self._find(experiment_id, "eatnas.candidate", key)
            if found is not None:
                return _known(found)
        return _known(
            self._client.create_run(
                experiment_id,
                start_time=_milliseconds(one.started_at),
                tags={"eatnas.candidate": key},
                run_name=f"birth {one.birth}",
            )
        )

    def _find(self, experiment_id: str, tag: str, value: str) -> Any:
        return next(self._list(experiment_id, f"tags.`{tag}` = '{value}'"), None)

    def _draw(self, run_id: str, one: Any, experiment: Experiment) -> bool:
        """Store the architecture as JSON and as a drawing. A trouble with files is told once and holds up no runs."""
        network = Architecture.parse(one.genotype)
        facts = describe_architecture(network, experiment.macro, experiment.task)
        facts |= {"digest": one.digest, "params": one.params, "mult_adds": one.mult_adds}
        title = f"candidate {one.id}, birth {one.birth}"
        try:
            with tempfile.TemporaryDirectory(prefix="eatnas-mlflow-") as name:
                folder = Path(name)
                (folder / "architecture.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
                svg = draw_architecture(network, experiment.macro, experiment.task, title)
                (folder / "architecture.svg").write_text(svg, encoding="utf-8")
                self._client.log_artifacts(run_id, name)
        except Exception as error:  # whatever a full disk or MLflow's store of files throws
            self._client.search_experiments(max_results=1)  # raises where it is MLflow itself that has gone
            self._takes_files = False
            self._tell(f"MLflow takes no files, only runs: {type(error).__name__}: {error}")
            return False
        return True

    def _write(self, run: Run, one: Any, status: str, drawn: bool, recipe: dict[str, Any]) -> None:
        from mlflow.entities import Param, RunTag

        metrics = _metrics(self._engine, one, int(run.marks.get("eatnas.epochs", 0)))
        parent = self._run_of(one.parent_id)
        family = {} if parent is None else {"mlflow.parentRunId": parent}
        where = {"eatnas.host": one.host, "eatnas.device": one.device} if one.device else {}
        files = {"eatnas.drawn": "yes"} if drawn else {}
        tags = {**family, **where, **files, "eatnas.birth": str(one.birth), **_marks(one)}
        log_all(
            self._client,
            run.run_id,
            metrics,
            params=[Param(key, str(value)) for key, value in _params(one, recipe).items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        if status in ENDED:
            ended_at = one.ended_at or one.heard_at
            self._client.set_terminated(run.run_id, status, end_time=_milliseconds(ended_at))
        elif run.status != status:
            self._client.update_run(run.run_id, status=status)


def sync(engine: Engine, tracking_uri: str, *, pictures: bool = True) -> int:
    """Bring an MLflow store up to date with the whole record. How many candidates' runs were written.

    Raises `RecordError` where MLflow cannot be reached or used. A trouble with `pictures` alone goes to stderr.
    """
    _silence_mlflow()
    from mlflow.exceptions import MlflowException

    try:
        mirror = MlflowSync(engine, opened(engine, tracking_uri), _painter(engine) if pictures else None)
        written = mirror.look()
        mirror.illustrate(at_once=True)
    except (ImportError, MlflowException) as error:  # a missing driver is an ImportError
        raise RecordError(_in_words(tracking_uri, error)) from error
    return written


def keep_up(engine: Engine, tracking_uri: str, every: float = EVERY_SECONDS) -> None:
    """Look whenever the record has changed, until the parent ends. MLflow's errors are told and tried again."""
    parent = os.getppid()
    mirror: MlflowSync | None = None
    store: tuple[int, int] | None = None

    def look(due: bool, last: bool) -> None:
        nonlocal mirror, store
        if store is not None and _store_file(tracking_uri) != store:
            # MLflow keeps a deleted file open and would go on writing into it: begin again.
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606
        before, mirror = mirror, None  # after a trouble it begins anew
        if due and before is None:
            client = opened(engine, tracking_uri)
            store = _store_file(tracking_uri)
            before = MlflowSync(engine, client, _painter(engine))
        if before is None:
            return
        if due:
            before.look(parent if last else None)
        before.illustrate(at_once=last)
        mirror = before

    def tell(error: Exception) -> None:
        _to_stderr(_in_words(tracking_uri, error))

    # Whatever MLflow, its store or its network throws: it must never end a search.
    follow(engine, every, look, tell, Exception)


def main(arguments: Sequence[str] | None = None) -> None:
    """Follow a record in a child process. Addresses may hold passwords, so they come by the environment."""
    parser = argparse.ArgumentParser(
        prog="python -m eatnas_daemon.mlflow.sync",
        description=f"{__doc__} EATNAS_DB_URL says where the record is, MLFLOW_TRACKING_URI where MLflow is.",
    )
    parser.add_argument("--every", type=float, default=EVERY_SECONDS, help="seconds between two looks")
    options = parser.parse_args(arguments)
    database_url, tracking_uri = os.environ.get("EATNAS_DB_URL"), os.environ.get("MLFLOW_TRACKING_URI")
    if not database_url or not tracking_uri:
        parser.error("set EATNAS_DB_URL and MLFLOW_TRACKING_URI")
    signal.signal(signal.SIGTERM, _leave)
    try:
        keep_up(open_record(database_url), tracking_uri, options.every)
    except EatnasError as error:
        sys.exit(str(error))


def opened(engine: Engine, tracking_uri: str) -> Any:
    """MLflow's client of a store that is whole: two that make one at the same time leave a torn one behind."""
    with alone(engine, "mlflow"):
        client = connect(tracking_uri)
        client.search_experiments(max_results=1)
    return client


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


def _store_file(tracking_uri: str) -> tuple[int, int] | None:
    """Which file an SQLite store is at the moment."""
    try:
        found = Path(tracking_uri.removeprefix("sqlite:///")).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _painter(engine: Engine) -> Painter:
    return Painter(engine.url.render_as_string(hide_password=False))


def _files_beside(tracking_uri: str) -> Path | None:
    """Where the files of a home's own store lie; a server sees to its own."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    return Path(tracking_uri.removeprefix("sqlite:///")).absolute().parent / "mlflow-artifacts"


def _living(connection: Connection, leaving: int | None) -> frozenset[int] | None:
    """The ids of the hosts whose supervisor works on the record; None: whoever holds a lease does."""
    if on_server(connection):
        return living_hosts(connection)
    holder = lock.holder_of(Path(f"{connection.engine.url.database}.lock"))
    return frozenset() if holder in (None, leaving) else None


def _changed_since(seen: int | None) -> Any:
    """Which candidates may differ from what they were: those with newer events, and those in training."""
    if seen is None:
        return select(candidate.c.id).where(candidate.c.attempt > 0)
    moved = select(event.c.candidate_id).where(event.c.id > seen, event.c.candidate_id.is_not(None))
    return union(moved, select(lease.c.candidate_id))


def _read(engine: Engine, ids: Sequence[int]) -> Sequence[Any]:
    tries = attempt.alias()
    of_tries = tries.c.candidate_id == candidate.c.id
    started = select(func.min(tries.c.started_at)).where(of_tries)
    spent = select(func.sum(tries.c.device_seconds)).where(of_tries)
    of_epochs = epoch.c.candidate_id == candidate.c.id
    epochs = select(func.coalesce(func.max(epoch.c.number) + 1, 0)).where(of_epochs)
    heard = select(func.max(epoch.c.ended_at)).where(of_epochs)
    last = (attempt.c.candidate_id == candidate.c.id) & (attempt.c.number == candidate.c.attempt)
    query = (
        select(
            candidate,
            architecture.c.genotype,
            architecture.c.digest,
            started.scalar_subquery().label("started_at"),
            spent.scalar_subquery().label("device_seconds"),
            epochs.scalar_subquery().label("epochs"),
            func.coalesce(heard.scalar_subquery(), attempt.c.started_at).label("heard_at"),
            device.c.name.label("device"),
            device.c.kind.label("device_kind"),
            host.c.name.label("host"),
            lease.c.host_id.label("lease_host"),
        )
        .join(architecture)
        .join(attempt, last)
        .join(worker, worker.c.id == attempt.c.worker_id)
        .join(device, device.c.id == worker.c.device_id)
        .join(host, host.c.id == device.c.host_id)
        .outerjoin(lease, lease.c.candidate_id == candidate.c.id)
        .where(candidate.c.id.in_(ids))
        .order_by(candidate.c.id)
    )
    with reading(engine) as connection:
        return connection.execute(query).all()


def _facts(row: SearchRecord) -> dict[str, str]:
    return {
        "eatnas.space": row.spec["space"] if isinstance(row.spec["space"], str) else "a space of its own",
        "eatnas.seed": str(row.seed),
        "eatnas.spec": json.dumps(row.spec, sort_keys=True)[:LONGEST_TAG],
        "mlflow.note.content": introduction(row),
    }


def _known(run: Any) -> Run:
    marks = {key: run.data.tags[key] for key in MARKS if key in run.data.tags}
    return Run(run.info.run_id, run.info.status, marks, "eatnas.drawn" in run.data.tags)


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
        Metric(key, value, _milliseconds(row.ended_at), row.number)
        for row in rows
        for key, value in _of_epoch(row, one.device_kind).items()
        if value is not None
    ]
    if one.fitness is not None:
        at, last = _milliseconds(one.ended_at), max(one.epochs - 1, 0)
        values = {name: getattr(one, name) for name in SCORE_METRICS}
        metrics += [Metric(name, float(value), at, last) for name, value in values.items() if value is not None]
    return metrics


def _of_epoch(row: Any, device_kind: str) -> dict[str, float | None]:
    """What MLflow is told of an epoch; what begins with `system/` has a page of its own there."""
    memory, load = SYSTEM_METRICS["worker" if device_kind == CPU else "gpu"]
    return {
        **{key: getattr(row, key) for key in EPOCH_METRICS},
        memory: None if row.memory_bytes is None else row.memory_bytes / 1e6,
        load: None if row.load is None else 100 * row.load,
    }


if __name__ == "__main__":
    main()
