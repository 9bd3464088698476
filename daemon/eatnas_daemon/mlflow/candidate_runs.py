"""Write MLflow's runs of candidates: one run for each candidate with an attempt."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine

from eatnas_daemon.mlflow.client import (
    CANDIDATE_TAG,
    RUNNING,
    SCHEDULED,
    find_run,
    log_in_batches,
    make_params,
    to_milliseconds,
)
from eatnas_daemon.mlflow.metrics import epoch_metrics, score_metrics
from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.final_weights import FROM, list_weight_sources
from eatnas_db.domain.macro import Task
from eatnas_db.domain.states import CandidateState
from eatnas_db.queries.attempted_candidates import AttemptedCandidate
from eatnas_db.queries.candidates import list_epochs
from eatnas_db.queries.predictions import get_predicted_fitness
from eatnas_report.architecture_drawing import describe_architecture, draw_architecture
from eatnas_report.formats import flatten

if TYPE_CHECKING:
    from mlflow.entities import Param, Run, RunTag
    from mlflow.tracking import MlflowClient

STATUSES: Final = {
    CandidateState.SCORED: "FINISHED",
    CandidateState.FAILED: "FAILED",
    CandidateState.CANCELLED: "KILLED",
    CandidateState.LEASED: RUNNING,
    CandidateState.PENDING: SCHEDULED,
    CandidateState.WAITING: SCHEDULED,
}
ABANDONED: Final = "KILLED"
"""The status of a candidate whose daemon died during the training. The next daemon resumes the training."""
ENDED: Final = ("FINISHED", "FAILED", "KILLED")
PROGRESS_TAGS: Final = ("eatnas.state", "eatnas.attempt", "eatnas.epochs")
NOTE_TAG: Final = "mlflow.note.content"
FILES_TAG: Final = "eatnas.drawn"


@dataclass(frozen=True, slots=True)
class Experiment:
    """The MLflow experiment of a search, and properties that all its candidates share."""

    experiment_id: str
    recipe: dict[str, Any]
    macro: dict[str, Any]
    task: Task


@dataclass(frozen=True, slots=True)
class CandidateRun:
    """A candidate's run, and the part of the candidate's data that the run contains.

    `progress` has the values of `PROGRESS_TAGS`; `has_files` is true if the architecture's files are uploaded.
    """

    run_id: str
    status: str
    progress: dict[str, str]
    has_files: bool

    @property
    def epochs(self) -> int:
        """The number of epochs whose metrics the run contains."""
        return int(self.progress.get("eatnas.epochs", 0))


class CandidateRuns:
    """Writes the runs of a record's candidates, and remembers what each run contains."""

    def __init__(self, engine: Engine, client: MlflowClient, record_uuid: str, log: Callable[[str], None]) -> None:
        self._engine, self._client, self._record_uuid, self._log = engine, client, record_uuid, log
        self._runs: dict[str, CandidateRun] = {}
        self._store_accepts_files = True

    def adopt(self, run: Run) -> None:
        """Remember a run that already exists."""
        self._runs[run.data.tags[CANDIDATE_TAG]] = _read_run(run)

    def find_run_id(self, candidate_id: int) -> str | None:
        """Return the id of a candidate's run, if it has one."""
        run = self._runs.get(self._key(candidate_id))
        return None if run is None else run.run_id

    def sync(
        self,
        candidate: AttemptedCandidate,
        experiment: Experiment,
        live_hosts: frozenset[int] | None,
        *,
        look_up: bool,
    ) -> bool:
        """Bring a candidate's run up to date. Return whether anything was written.

        `live_hosts` are the ids of the hosts with a running supervisor, or None if every lease is live. With `look_up`,
        search MLflow for an unknown run before creating it, because another program may have created the run.
        """
        key = self._key(candidate.id)
        run = self._runs.get(key)
        status, progress = _status(candidate, live_hosts), _progress(candidate)
        if (
            run is not None
            and (run.status, run.progress) == (status, progress)
            and (run.has_files or not self._store_accepts_files)
        ):
            return False
        run = run or self._find_or_create(key, candidate, experiment, look_up=look_up)
        has_files = run.has_files or self._upload_files(run.run_id, candidate, experiment)
        self._write(run, candidate, experiment.recipe, status, has_files=has_files)
        self._runs[key] = CandidateRun(run.run_id, status, progress, has_files)
        return True

    def _key(self, candidate_id: int) -> str:
        return f"{self._record_uuid}/{candidate_id}"

    def _find_or_create(
        self, key: str, candidate: AttemptedCandidate, experiment: Experiment, *, look_up: bool
    ) -> CandidateRun:
        run = find_run(self._client, experiment.experiment_id, CANDIDATE_TAG, key) if look_up else None
        if run is None:
            run = self._client.create_run(
                experiment.experiment_id,
                start_time=to_milliseconds(candidate.started_at),
                tags={CANDIDATE_TAG: key, **self._note(candidate)},
                run_name=f"birth {candidate.birth}",
            )
        return _read_run(run)

    def _note(self, candidate: AttemptedCandidate) -> dict[str, str]:
        """Return the tag with the description of a run: the reason why the model proposed the network. Return no tag
        for other births.
        """
        with read_transaction(self._engine) as connection:
            prediction = get_predicted_fitness(connection, candidate.id)
        return {} if prediction is None else {NOTE_TAG: prediction.reason}

    def _upload_files(self, run_id: str, candidate: AttemptedCandidate, experiment: Experiment) -> bool:
        """Upload the architecture as JSON and as a drawing. After an error, log the error and upload no more files."""
        if not self._store_accepts_files:
            return False
        try:
            with tempfile.TemporaryDirectory(prefix="eatnas-mlflow-") as name:
                _write_files(Path(name), candidate, experiment)
                self._client.log_artifacts(run_id, name)
        except Exception as error:  # a full disk, or any error of MLflow's artifact store
            self._client.search_experiments(max_results=1)  # raises if MLflow as a whole is unreachable
            self._store_accepts_files = False
            self._log(f"MLflow stores runs, but cannot store files: {type(error).__name__}: {error}")
            return False
        return True

    def _write(
        self, run: CandidateRun, candidate: AttemptedCandidate, recipe: dict[str, Any], status: str, *, has_files: bool
    ) -> None:
        with read_transaction(self._engine) as connection:
            # If the candidate has fewer epochs than its run, the training has started again from scratch.
            first = run.epochs if run.epochs <= candidate.epochs else 0
            epochs = list_epochs(connection, candidate.id, first=first, end=candidate.epochs)
        log_in_batches(
            self._client,
            run.run_id,
            [*epoch_metrics(epochs, candidate.device_kind), *score_metrics(candidate)],
            params=_params(candidate, recipe),
            tags=self._tags(candidate, has_files=has_files),
        )
        if status in ENDED:
            ended_at = candidate.ended_at or candidate.last_report_at
            self._client.set_terminated(run.run_id, status, end_time=to_milliseconds(ended_at))
        elif run.status != status:
            self._client.update_run(run.run_id, status=status)

    def _tags(self, candidate: AttemptedCandidate, *, has_files: bool) -> list[RunTag]:
        from mlflow.entities import RunTag

        tags = {"eatnas.host": candidate.host_name, "eatnas.device": candidate.device_name}
        tags |= {"eatnas.birth": str(candidate.birth), **_progress(candidate)}
        parent = None if candidate.parent_id is None else self.find_run_id(candidate.parent_id)
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        if has_files:
            tags[FILES_TAG] = "yes"
        return [RunTag(key, value) for key, value in tags.items()]


def _read_run(run: Run) -> CandidateRun:
    progress = {key: run.data.tags[key] for key in PROGRESS_TAGS if key in run.data.tags}
    return CandidateRun(run.info.run_id, run.info.status, progress, FILES_TAG in run.data.tags)


def _status(candidate: AttemptedCandidate, live_hosts: frozenset[int] | None) -> str:
    leased = candidate.state is CandidateState.LEASED
    if leased and live_hosts is not None and candidate.lease_host_id not in live_hosts:
        return ABANDONED
    return STATUSES[candidate.state]


def _progress(candidate: AttemptedCandidate) -> dict[str, str]:
    return dict(zip(PROGRESS_TAGS, (candidate.state.value, str(candidate.attempt), str(candidate.epochs)), strict=True))


def _params(candidate: AttemptedCandidate, recipe: dict[str, Any]) -> list[Param]:
    blocks = {f"block{number}": block for number, block in enumerate(candidate.genotype.split("/"), 1)}
    sizes = {"params": candidate.params, "mult_adds": candidate.mult_adds, "origin": candidate.origin}
    # If the spec names a source for each architecture, join the sources: MLflow does not allow the code of an
    # architecture in the name of a parameter.
    if sources := list_weight_sources(recipe):
        recipe = {**recipe, FROM: ", ".join(map(str, sources))}
    return make_params({**flatten(recipe), **blocks, **sizes})


def _write_files(folder: Path, candidate: AttemptedCandidate, experiment: Experiment) -> None:
    description = describe_architecture(candidate.genotype, experiment.macro, experiment.task)
    description |= {"digest": candidate.digest, "params": candidate.params, "mult_adds": candidate.mult_adds}
    (folder / "architecture.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    title = f"candidate {candidate.id}, birth {candidate.birth}"
    drawing = draw_architecture(candidate.genotype, experiment.macro, experiment.task, title)
    (folder / "architecture.svg").write_text(drawing, encoding="utf-8")
