"""MLflow's run for a search as a whole: its curve, its best, its pictures and its report, refreshed as it goes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine

from eatnas_db.database.transactions import reading
from eatnas_db.queries.quality import list_steps
from eatnas_db.queries.ranking import RankedCandidate, get_winner, list_best
from eatnas_db.queries.searches import SearchRecord

CURVE: Final = ("quality", "mean", "best", "spread")
BATCH: Final = 800
"""Metrics in one call. MLflow takes 1000 things at a time, and a run's parameters and tags go with its last metrics."""
LEAST_SECONDS: Final = 60.0
SHARE: Final = 0.02
"""Pictures are drawn again after a minute, or where that is longer after this share of the search's age."""
PAINT_SECONDS: Final = 600.0
LONGEST_PARAM: Final = 500
KEY: Final = "eatnas.summary"
ENDED: Final = {"finished": "FINISHED", "cancelled": "KILLED"}
RUNNING: Final = "RUNNING"
WAITING: Final = "SCHEDULED"
"""Of a search or a candidate that nobody works on, and that may go on."""
Find = Callable[[str, str, str], Any]
"""A run by its experiment, and a tag with its value; None where there is none."""


@dataclass(slots=True)
class SearchRun:
    """A summary run, how far it has been written, and of which standing of the search.

    `told`, `drawn`, `begun`: its words, its pictures, and those that were begun last.
    """

    run_id: str
    status: str = RUNNING
    told: str = ""
    steps: int = 0
    drawn: str = ""
    begun: str = ""
    begun_at: float = float("-inf")


class Painter:
    """Draws one search at a time, in a child process: pictures may be slow, and must not hold up the runs."""

    def __init__(self, database_url: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        # By the environment: the address may hold a password.
        self._environment = {**os.environ, "EATNAS_DB_URL": database_url}
        self._monotonic = monotonic
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._stop_at = 0.0
        self.search_id: int | None = None

    def begin(self, record: SearchRecord) -> None:
        """Start to draw a search."""
        self._folder = tempfile.TemporaryDirectory(prefix="eatnas-mlflow-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        (folder / "files").mkdir()
        program = [sys.executable, "-m", "eatnas_report.render", record.name, str(folder / "files")]
        with (folder / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                program, env=self._environment, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
            )
        self._stop_at = self._monotonic() + PAINT_SECONDS
        self.search_id = record.id

    def done(self, *, wait: bool) -> Path | None:
        """The folder of what was drawn, once it is whole. Raises `RuntimeError` with the painter's last words."""
        assert self._process is not None
        assert self._folder is not None
        left = max(0.0, self._stop_at - self._monotonic())
        try:
            status = self._process.wait(left if wait else 0)
        except subprocess.TimeoutExpired:
            if not wait and left:
                return None
            self._process.kill()
            status = self._process.wait()
        if status:
            words = (Path(self._folder.name) / "errors").read_text(errors="replace").strip().splitlines()
            self.clear()
            raise RuntimeError(words[-1] if words else f"the pictures' program left with status {status}")
        return Path(self._folder.name) / "files"

    def clear(self) -> None:
        """Forget what was drawn."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = self._process = self.search_id = None


class SearchRuns:
    """Keeps the summary runs of one record."""

    def __init__(
        self,
        engine: Engine,
        client: Any,
        uuid: str,
        painter: Painter | None,
        tell: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._client, self._uuid, self._painter = engine, client, uuid, painter
        self._tell, self._monotonic = tell, monotonic
        self._known: dict[int, SearchRun] = {}
        self._records: dict[int, SearchRecord] = {}
        self._standing: dict[int, str] = {}

    def recognize(self, run: Any) -> None:
        """Take over a run of an earlier mirror, where it is one of ours."""
        tags = run.data.tags
        uuid, _, number = tags.get(KEY, "").partition("/")
        if uuid == self._uuid:
            self._known[int(number)] = SearchRun(
                run.info.run_id,
                run.info.status,
                tags.get("eatnas.standing", ""),
                int(tags.get("eatnas.steps", 0)),
                tags.get("eatnas.drawn", ""),
            )

    def look(
        self,
        records: tuple[SearchRecord, ...],
        experiment_of: Callable[[int], str],
        run_of: Callable[[int], str | None],
        find: Find,
        *,
        worked_on: bool,
    ) -> None:
        """Write what is new of every search."""
        for record in records:
            measured = sum(other.settled for other in records if other.source_id == record.id)
            standing = f"{record.status}, {record.settled}+{measured}"
            status = ENDED.get(record.status) or (RUNNING if worked_on and record.status != "paused" else WAITING)
            self._records[record.id], self._standing[record.id] = record, standing
            summary = self._known.get(record.id)
            if summary is not None and (summary.told, summary.status) == (standing, status):
                continue
            experiment_id = experiment_of(record.id)
            if summary is None:
                summary = self._find_or_create(record, experiment_id, find)
            self._write(record, summary, standing, experiment_id, run_of)
            if summary.status != status:
                if record.finished_at is not None:
                    self._client.set_terminated(summary.run_id, status, end_time=round(record.finished_at * 1000))
                else:
                    self._client.update_run(summary.run_id, status=status)
            summary.told, summary.status = standing, status

    def _find_or_create(self, record: SearchRecord, experiment_id: str, find: Find) -> SearchRun:
        key = f"{self._uuid}/{record.id}"
        found = find(experiment_id, KEY, key)
        if found is not None:
            self.recognize(found)
            return self._known[record.id]
        run = self._client.create_run(
            experiment_id, start_time=round(record.created_at * 1000), tags={KEY: key}, run_name="summary"
        )
        self._client.log_batch(run.info.run_id, params=_params(record))
        whole = f"[The search as a whole]({_link(experiment_id, run.info.run_id)})"
        # In one line: of more MLflow's page folds all but one away.
        note = f"{whole}: its curve, its best, pictures and a report. {introduction(record)}"
        self._client.set_experiment_tag(experiment_id, "mlflow.note.content", note)
        self._known[record.id] = SearchRun(run.info.run_id)
        return self._known[record.id]

    def _write(
        self,
        record: SearchRecord,
        summary: SearchRun,
        standing: str,
        experiment_id: str,
        run_of: Callable[[int], str | None],
    ) -> None:
        from mlflow.entities import Metric, RunTag

        with reading(self._engine) as connection:
            rows = list_steps(connection, record.id, summary.steps, limit=record.settled - summary.steps)
            best = _best(connection, record.id)
        metrics = [
            Metric(name, getattr(row, name), round(row.at * 1000), row.number)
            for row in rows
            for name in CURVE
            if getattr(row, name) is not None
        ]
        if rows:
            at = round(rows[-1].at * 1000)
            metrics += [
                Metric("scored", record.scored, at, record.settled),
                Metric("device_seconds", record.device_seconds, at, record.settled),
            ]
        best_run = None if best is None else run_of(best.id)
        tags = {
            "eatnas.status": record.status,
            "eatnas.standing": standing,
            "eatnas.steps": str(record.settled),
            "mlflow.note.content": _note(record, best, best_run, experiment_id),
            **({"eatnas.best_run": best_run} if best_run else {}),
        }
        told = [RunTag(key, value) for key, value in tags.items()]
        log_all(self._client, summary.run_id, metrics, tags=told)
        summary.steps = record.settled

    def illustrate(self, *, at_once: bool) -> None:
        """Draw what has changed, at a leisurely pace, or all of it `at_once`. A trouble with pictures is only told."""
        painter = self._painter
        tried: set[int] = set()
        while painter is not None:
            if painter.search_id is not None and not self._deliver(painter, wait=at_once):
                return
            due = (number for number in self._records if number not in tried and self._is_due(number, at_once))
            number = next(due, None)
            if number is None:
                return
            tried.add(number)
            summary = self._known[number]
            summary.begun, summary.begun_at = self._standing[number], self._monotonic()
            try:
                painter.begin(self._records[number])
            except OSError as error:
                self._tell(f"pictures of {self._records[number].name}: {error}")
            if not at_once:
                return

    def _is_due(self, number: int, at_once: bool) -> bool:
        record, summary, standing = self._records[number], self._known[number], self._standing[number]
        ended = record.finished_at is not None
        if summary.drawn == standing or not (record.settled or ended):
            return False
        resting = self._monotonic() - summary.begun_at < max(LEAST_SECONDS, SHARE * (time.time() - record.created_at))
        return at_once or not resting or (ended and not summary.begun.startswith(record.status))

    def _deliver(self, painter: Painter, *, wait: bool) -> bool:
        """Give MLflow what was drawn; False while it is being drawn."""
        assert painter.search_id is not None
        number = painter.search_id
        try:
            folder = painter.done(wait=wait)
            if folder is None:
                return False
            summary = self._known[number]
            self._client.log_artifacts(summary.run_id, str(folder))
            # As it was when they were begun: they may show more, never less.
            self._client.set_tag(summary.run_id, "eatnas.drawn", summary.begun)
            summary.drawn = summary.begun
        except Exception as error:  # whatever drawing throws, or MLflow's store of files
            self._tell(f"pictures of {self._records[number].name}: {type(error).__name__}: {error}")
        painter.clear()
        return True


def log_all(client: Any, run_id: str, metrics: list[Any], **told: list[Any]) -> None:
    """Write metrics, as many at a time as a server takes, and with the last of them the params and tags `told`.

    Stores write metrics before tags, so that tags never tell of more than there is.
    """
    while len(metrics) > BATCH:
        client.log_batch(run_id, metrics=metrics[:BATCH])
        metrics = metrics[BATCH:]
    client.log_batch(run_id, metrics=metrics, **told)


def introduction(record: SearchRecord) -> str:
    """What a search is, in a sentence."""
    space = record.spec["space"] if isinstance(record.spec["space"], str) else "a space of its own"
    of = record.spec["data"]["name"]
    return f"Search {record.name}: {space} on {of}, seed {record.seed}, written by eatnas-db."


def _note(record: SearchRecord, best: RankedCandidate | None, best_run: str | None, experiment_id: str) -> str:
    lines = [introduction(record), f"{record.status}, {record.settled} of {record.budget_candidates} births settled."]
    if best is not None:
        words = f"candidate {best.id}, birth {best.birth}"
        linked = words if best_run is None else f"[{words}]({_link(experiment_id, best_run)})"
        measure = "score" if best.yardstick is None else "yardstick"
        value = best.fitness if best.yardstick is None else best.yardstick
        lines.append(f"Best by {measure}: {linked}, {value:.4f}.")
    lines.append(f"The metrics {', '.join(CURVE)} are the population's after each step; the pictures and the report ")
    lines[-1] += "are among the artifacts, and are renewed as the search goes."
    return "\n\n".join(lines)


def _link(experiment_id: str, run_id: str) -> str:
    return f"#/experiments/{experiment_id}/runs/{run_id}"


def _best(connection: Connection, search_id: int) -> RankedCandidate | None:
    winner = get_winner(connection, search_id)
    if winner is not None and winner.yardstick is not None:
        return winner
    return next(iter(list_best(connection, search_id, 1)), None)


def _params(record: SearchRecord) -> list[Any]:
    from mlflow.entities import Param

    return [Param(key, str(value)[:LONGEST_PARAM]) for key, value in _flat(record.spec)]


def _flat(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield path + key, value
