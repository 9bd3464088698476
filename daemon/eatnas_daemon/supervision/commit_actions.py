"""The actions that a supervisor takes after its transaction has committed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eatnas_daemon.gpus.worker_scheduler import WorkerScheduler
from eatnas_daemon.workers.assignments import Assignment
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_daemon.workers.worker_state import WorkerState
from eatnas_db.artifact_paths import find_artifact
from eatnas_db.checkpoint_files import list_partial_files
from eatnas_db.domain.states import FailureKind
from eatnas_protocol.messages import Cancel, Failed, Finished


@dataclass(frozen=True, slots=True)
class CommitActions:
    """The actions to take after the transaction has committed."""

    assigned: list[tuple[Slot, Assignment]]
    """The assignments to send to workers."""
    stale: list[Slot]
    """The slots whose trainings must stop, because the trainings have lost their leases."""
    obsolete_files: list[str]
    """The checkpoint files to remove, relative to the artifacts folder."""
    finished: bool
    """Whether the supervisor works on a single search, and this search has ended."""


def run_commit_actions(
    actions: CommitActions, slots: list[Slot], artifacts: Path, timeouts: Timeouts, now: float
) -> None:
    """Drop the reports that the transaction has recorded. Then stop trainings, send assignments, and remove files."""
    for slot in slots:
        if slot.worker is not None:
            _forget_recorded(slot, slot.worker, timeouts, now)
    for slot in actions.stale:
        if slot.worker is not None:
            slot.worker.request_stop(Cancel, now, timeouts)
    for slot, assignment in actions.assigned:
        if slot.worker is not None:
            slot.worker.assign(assignment, now)
    for path in actions.obsolete_files:
        file = find_artifact(artifacts, path)
        if file is not None:
            with suppress(OSError):  # The next collection removes the file.
                file.unlink()


def record_gpu_results(slots: list[Slot], gpu_scheduler: WorkerScheduler) -> None:
    """Report finished trainings, and trainings that ended their workers, to the GPU scheduler."""
    for slot in slots:
        for report in slot.worker.reports if slot.on_gpu and slot.worker is not None else ():
            if isinstance(report, Finished):
                gpu_scheduler.record_success(slot.device.uuid)
            elif isinstance(report, Failed) and report.fatal and report.kind != FailureKind.LOST:
                gpu_scheduler.record_failure(slot.device.uuid, report.candidate)


def _forget_recorded(slot: Slot, worker: WorkerState, timeouts: Timeouts, now: float) -> None:
    """Drop the recorded reports of a worker, its training if the training has ended, and the worker if it has ended."""
    if worker.has_final_report:
        worker.end_training()
    worker.reports.clear()
    if worker.ended:
        _remove_partial_files(worker)
        slot.remove_worker(now, timeouts)


def _remove_partial_files(worker: WorkerState) -> None:
    """Remove the checkpoint file that a worker was writing when it was killed."""
    if worker.training is not None:
        assign = worker.training.assignment.message
        for file in list_partial_files(Path(assign.checkpoint_folder), assign.candidate, assign.attempt):
            with suppress(OSError):  # The next attempt removes the file.
                file.unlink()
