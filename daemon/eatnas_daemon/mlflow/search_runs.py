"""Write MLflow's runs of searches: one run named `summary` per search, with the metrics of its population."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Engine

from eatnas_daemon.mlflow.client import (
    RUNNING,
    SCHEDULED,
    SEARCH_TAG,
    find_run,
    log_in_batches,
    make_params,
    to_milliseconds,
)
from eatnas_daemon.mlflow.notes import describe_progress, introduce, link_to_run
from eatnas_daemon.mlflow.pictures import PICTURES_TAG, SearchPictures
from eatnas_db.database.transactions import read_transaction
from eatnas_db.queries.paging import Page
from eatnas_db.queries.quality import PopulationStep, list_steps
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.searches import SearchRecord
from eatnas_report.formats import flatten

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

STEP_METRICS: Final = ("quality", "mean", "best", "spread")
STATUS_AT_END: Final = {"finished": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
REVISION_TAG: Final = "eatnas.standing"


@dataclass(slots=True)
class SearchRun:
    """A search's run, and the part of the search's data that the run contains.

    `revision` is the search's revision at the last write of the run; `steps` is the number of steps with metrics.
    """

    run_id: str
    status: str = RUNNING
    revision: str = ""
    steps: int = 0


class SearchRuns:
    """Writes the runs of a record's searches, and remembers what each run contains."""

    def __init__(self, engine: Engine, client: MlflowClient, record_uuid: str, pictures: SearchPictures | None) -> None:
        self._engine, self._client, self._record_uuid, self._pictures = engine, client, record_uuid, pictures
        self._runs: dict[int, SearchRun] = {}
        self._pictured_revisions: dict[int, str] = {}

    def adopt(self, run: Run) -> None:
        """Remember a run that already exists, if it belongs to this record."""
        tags = run.data.tags
        uuid, _, search_id = tags.get(SEARCH_TAG, "").partition("/")
        if uuid == self._record_uuid:
            self._runs[int(search_id)] = SearchRun(
                run_id=run.info.run_id,
                status=run.info.status,
                revision=tags.get(REVISION_TAG, ""),
                steps=int(tags.get("eatnas.steps", 0)),
            )
            self._pictured_revisions[int(search_id)] = tags.get(PICTURES_TAG, "")

    def sync(
        self,
        searches: Sequence[SearchRecord],
        experiment_ids: Mapping[int, str],
        find_candidate_run: Callable[[int], str | None],
        *,
        has_daemon: bool,
    ) -> None:
        """Bring the run of every search up to date. `has_daemon` is true if a supervisor is working on the record."""
        for search in searches:
            revision, status = _revision(search, searches), _status(search, has_daemon=has_daemon)
            run = self._runs.get(search.id)
            if run is None:
                run = self._find_or_create(search, experiment_ids[search.id])
            if (run.revision, run.status) != (revision, status):
                self._write(search, run, revision, experiment_ids[search.id], find_candidate_run)
                self._set_status(search, run, status)
                run.revision, run.status = revision, status
            if self._pictures is not None:
                uploaded = self._pictured_revisions.get(search.id, "")
                self._pictures.track(search, run.run_id, revision, uploaded)

    def _find_or_create(self, search: SearchRecord, experiment_id: str) -> SearchRun:
        key = f"{self._record_uuid}/{search.id}"
        existing = find_run(self._client, experiment_id, SEARCH_TAG, key)
        if existing is not None:
            self.adopt(existing)
            return self._runs[search.id]
        run = self._client.create_run(
            experiment_id, start_time=to_milliseconds(search.created_at), tags={SEARCH_TAG: key}, run_name="summary"
        )
        self._client.log_batch(run.info.run_id, params=make_params(flatten(search.spec)))
        # Write one paragraph, because MLflow's page hides all further paragraphs.
        link = link_to_run("Summary of the search", experiment_id, run.info.run_id)
        note = f"{link}: progress, best candidate, plots and report. {introduce(search)}"
        self._client.set_experiment_tag(experiment_id, "mlflow.note.content", note)
        self._runs[search.id] = SearchRun(run.info.run_id)
        return self._runs[search.id]

    def _write(
        self,
        search: SearchRecord,
        run: SearchRun,
        revision: str,
        experiment_id: str,
        find_candidate_run: Callable[[int], str | None],
    ) -> None:
        from mlflow.entities import RunTag

        with read_transaction(self._engine) as connection:
            steps = list_steps(connection, search.id, run.steps, page=Page(limit=search.settled - run.steps))
            best = get_best(connection, search.id)
        best_run = None if best is None else find_candidate_run(best.id)
        tags = {
            "eatnas.status": search.status,
            REVISION_TAG: revision,
            "eatnas.steps": str(search.settled),
            "mlflow.note.content": describe_progress(search, best, best_run, experiment_id, STEP_METRICS),
            **({"eatnas.best_run": best_run} if best_run else {}),
        }
        run_tags = [RunTag(key, value) for key, value in tags.items()]
        log_in_batches(self._client, run.run_id, _metrics(search, steps), tags=run_tags)
        run.steps = search.settled

    def _set_status(self, search: SearchRecord, run: SearchRun, status: str) -> None:
        if run.status == status:
            return
        if search.finished_at is not None:
            self._client.set_terminated(run.run_id, status, end_time=to_milliseconds(search.finished_at))
        else:
            self._client.update_run(run.run_id, status=status)


def _revision(search: SearchRecord, searches: Sequence[SearchRecord]) -> str:
    """Return a string that changes whenever the search's run or pictures have to change."""
    measured = sum(other.settled for other in searches if other.source_id == search.id)
    return f"{search.status}, {search.settled}+{measured}"


def _status(search: SearchRecord, *, has_daemon: bool) -> str:
    active = has_daemon and not search.status.startswith("paused")
    return STATUS_AT_END.get(search.status) or (RUNNING if active else SCHEDULED)


def _metrics(search: SearchRecord, steps: Sequence[PopulationStep]) -> list[Metric]:
    from mlflow.entities import Metric

    metrics = [
        Metric(name, getattr(step, name), to_milliseconds(step.at), step.number)
        for step in steps
        for name in STEP_METRICS
        if getattr(step, name) is not None
    ]
    if steps:
        at = to_milliseconds(steps[-1].at)
        metrics.append(Metric("scored", search.scored, at, search.settled))
        metrics.append(Metric("device_seconds", search.device_seconds, at, search.settled))
    return metrics
