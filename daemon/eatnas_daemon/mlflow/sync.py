"""Write a record to MLflow. A lost store can be written again from the record, since no decision depends on it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine

from eatnas_daemon.daemon_lock import find_record_user
from eatnas_daemon.mlflow.candidate_runs import CandidateRuns, Experiment
from eatnas_daemon.mlflow.client import (
    CANDIDATE_TAG,
    SEARCH_TAG,
    configure_mlflow,
    describe_error,
    find_artifact_folder,
    list_runs,
    open_store,
    suggest_repair,
)
from eatnas_daemon.mlflow.notes import introduce, space_name
from eatnas_daemon.mlflow.pictures import RenderProcess, SearchPictures
from eatnas_daemon.mlflow.search_runs import SearchRuns
from eatnas_daemon.mlflow.views import RunsView, ViewLink
from eatnas_db.database.batches import split_in_batches
from eatnas_db.database.dialects import is_postgresql, url_of
from eatnas_db.database.event_watermark import EventWatermark
from eatnas_db.database.locks import list_connected_hosts, task_lock
from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.macro import Task
from eatnas_db.errors import EatnasError, RecordError
from eatnas_db.queries.attempted_candidates import list_attempted, list_attempted_ids
from eatnas_db.queries.record_uuid import get_record_uuid
from eatnas_db.queries.searches import SearchRecord, list_searches
from eatnas_db.settings import lock_next_to
from eatnas_db.urls import hide_passwords

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CANDIDATES_PER_QUERY: Final = 500
MAX_TAG_CHARACTERS: Final = 5000
SEARCH_ID_TAG: Final = "eatnas.search_id"
"""The tag with a search's id. A name is not enough, because a new search may have the name of a deleted search."""


def sync(engine: Engine, tracking_uri: str, *, pictures: bool = True) -> int:
    """Bring an MLflow store up to date with the whole record. Return the number of candidate runs written.

    Raises `RecordError` if MLflow is not reachable or not usable. Errors while rendering `pictures` are printed to
    stderr.
    """
    configure_mlflow()
    try:
        mlflow_sync = MlflowSync(engine, open_store(engine, tracking_uri, print_to_stderr), pictures=pictures)
        written = mlflow_sync.sync_changes()
        mlflow_sync.update_pictures(at_once=True)
    except EatnasError:
        raise
    # Reading a store that is damaged, or whose first migration was killed, can raise any exception.
    except Exception as error:
        raise RecordError(f"{describe_error(tracking_uri, error)}; {suggest_repair(tracking_uri)}") from error
    return written


def list_experiment_ids(engine: Engine, tracking_uri: str) -> dict[str, str]:
    """Map the name of each search to the id of its MLflow experiment, the newest search first."""
    client = open_store(engine, tracking_uri)
    with read_transaction(engine) as connection:
        record_uuid, searches = get_record_uuid(connection), list_searches(connection)
    condition = f"tags.`eatnas.record` = '{record_uuid}'"
    found = {
        experiment.tags.get(SEARCH_ID_TAG): str(experiment.experiment_id)
        for experiment in client.search_experiments(filter_string=condition, max_results=1000)
    }
    return {search.name: found[str(search.id)] for search in reversed(searches) if str(search.id) in found}


def list_views(engine: Engine, tracking_uri: str, base_url: str) -> dict[str, ViewLink]:
    """Map the name of each search to a link to its view, the newest search first."""
    ids = list_experiment_ids(engine, tracking_uri)
    with read_transaction(engine) as connection:
        searches = [search for search in list_searches(connection) if not search.is_damaged]
    metrics = {search.name: search.objective.metric for search in searches}
    return {name: RunsView(metrics[name]).link(base_url, ids[name]) for name in ids if name in metrics}


def print_to_stderr(message: str) -> None:
    """Print a line to stderr, which the daemon redirects to a log file."""
    print(message, file=sys.stderr, flush=True)


class MlflowSync:
    """Writes missing data to MLflow. Remembers which data it has written, so that later calls process only changes.

    Every write can be repeated, because experiments and runs are found by their tags, and MLflow stores equal metrics
    only once. After an error, a new `MlflowSync` continues from the content of the store.
    """

    def __init__(
        self,
        engine: Engine,
        client: MlflowClient,
        *,
        pictures: bool = False,
        log: Callable[[str], None] = print_to_stderr,
    ) -> None:
        self._engine, self._client = engine, client
        with read_transaction(engine) as connection:
            self._record_uuid = get_record_uuid(connection)

        def log_safely(message: str) -> None:
            log(hide_passwords(message, client.tracking_uri))

        self._watermark = EventWatermark()
        self._synced_event: int | None = None
        self._experiments: dict[int, Experiment] = {}
        self._pictures: SearchPictures | None = None
        if pictures:
            renderer = RenderProcess(url_of(engine))
            self._pictures = SearchPictures(client, renderer, log_safely)
        self._candidate_runs = CandidateRuns(engine, client, self._record_uuid, log_safely)
        self._search_runs = SearchRuns(engine, client, self._record_uuid, self._pictures)

    def sync_changes(self, stopping_pid: int | None = None) -> int:
        """Bring MLflow up to date. Return the number of candidate runs written.

        `stopping_pid` is the pid of a supervisor that is about to exit. The candidates that the supervisor has leased
        no longer count as running.
        """
        # Without the lock, two programs could create the same missing run.
        with task_lock(self._engine, "mlflow", print_to_stderr):
            newest_event = self._watermark.advance(self._engine)
            with read_transaction(self._engine) as connection:
                ids = list_attempted_ids(connection, self._synced_event)
                searches = [row for row in list_searches(connection) if not row.is_damaged]
                live_hosts = _list_live_hosts(connection, stopping_pid)
            for search in searches:
                if search.id not in self._experiments:
                    self._open_experiment(search)
            written = self._sync_candidates(ids, live_hosts)
            self._search_runs.sync(
                searches,
                {search_id: experiment.experiment_id for search_id, experiment in self._experiments.items()},
                self._candidate_runs.find_run_id,
                has_daemon=live_hosts is None or bool(live_hosts),
            )
            self._synced_event = newest_event
        return written

    def update_pictures(self, *, at_once: bool = False) -> None:
        """Render and upload the pictures that are due or, with `at_once`, all outdated pictures."""
        if self._pictures is not None:
            self._pictures.update(at_once=at_once)

    def _sync_candidates(self, ids: list[int], live_hosts: frozenset[int] | None) -> int:
        written = 0
        for batch in split_in_batches(ids, CANDIDATES_PER_QUERY):
            with read_transaction(self._engine) as connection:
                candidates = list_attempted(connection, batch)
            for candidate in candidates:
                if candidate.search_id not in self._experiments:  # a manual change damaged its search
                    continue
                written += self._candidate_runs.sync(
                    candidate,
                    self._experiments[candidate.search_id],
                    live_hosts,
                    # The first call need not look up runs, because `_open_experiment` has just listed all of them.
                    look_up=self._synced_event is not None,
                )
        return written

    def _open_experiment(self, search: SearchRecord) -> None:
        """Find or create a search's experiment, restore it if it was deleted, and adopt its runs."""
        from mlflow.entities import ViewType

        condition = f"tags.`eatnas.record` = '{self._record_uuid}' AND tags.`{SEARCH_ID_TAG}` = '{search.id}'"
        existing = self._client.search_experiments(view_type=ViewType.ALL, max_results=1, filter_string=condition)
        if existing:
            experiment_id = str(existing[0].experiment_id)
            if existing[0].lifecycle_stage == "deleted":
                self._client.restore_experiment(experiment_id)
            for key, value in RunsView(search.objective.metric).tags.items():
                if key not in existing[0].tags:
                    self._client.set_experiment_tag(experiment_id, key, value)
            for run in list_runs(self._client, experiment_id):
                if CANDIDATE_TAG in run.data.tags:
                    self._candidate_runs.adopt(run)
                elif SEARCH_TAG in run.data.tags:
                    self._search_runs.adopt(run)
        else:
            experiment_id = self._create_experiment(search)
        self._experiments[search.id] = Experiment(
            experiment_id=experiment_id,
            recipe=search.spec["training"],
            macro=search.macro,
            task=Task(**search.task),
        )

    def _create_experiment(self, search: SearchRecord) -> str:
        name, record = f"eatnas/{search.name}", self._record_uuid[:8]
        # Another record or a deleted search may have an experiment with this name.
        names = (name, f"{name} ({record})", f"{name} ({record}, search {search.id})")
        name = next((name for name in names if self._client.get_experiment_by_name(name) is None), names[-1])
        folder = find_artifact_folder(self._client.tracking_uri)
        location = None if folder is None else (folder / f"{record}-{search.id}-{search.name}").as_uri()
        tags = {
            "eatnas.record": self._record_uuid,
            "eatnas.search": search.name,
            SEARCH_ID_TAG: str(search.id),
            "eatnas.space": space_name(search),
            "eatnas.seed": str(search.seed),
            "eatnas.spec": json.dumps(search.spec, sort_keys=True)[:MAX_TAG_CHARACTERS],
            "mlflow.note.content": introduce(search),
            **RunsView(search.objective.metric).tags,
        }
        return str(self._client.create_experiment(name, location, tags=tags))


def _list_live_hosts(connection: Connection, stopping_pid: int | None) -> frozenset[int] | None:
    """Return the ids of the hosts whose supervisors are working on the record; None if every lease is live.

    On SQLite, there is at most one supervisor. If this supervisor is running, all leases are live; otherwise, no lease
    is live.
    """
    if is_postgresql(connection):
        return list_connected_hosts(connection)
    user = find_record_user(lock_next_to(Path(str(connection.engine.url.database))))
    if user is None or not user.is_daemon or (user.process.is_visible and user.process.pid == stopping_pid):
        return frozenset()
    return None
