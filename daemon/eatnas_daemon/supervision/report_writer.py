"""Write the reports and the end of a worker to the database."""

from __future__ import annotations

import signal

from sqlalchemy import Connection

from eatnas_daemon.devices.model import CPU
from eatnas_daemon.gpus.worker_scheduler import WorkerScheduler
from eatnas_daemon.supervision.host_session import SupervisedHost
from eatnas_daemon.supervision.training_results import record_result
from eatnas_daemon.workers.running_training import RunningTraining
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.worker_state import WorkerFailure, WorkerState
from eatnas_db import hosts, training_record, transitions
from eatnas_db.attempts import raise_device_time
from eatnas_db.checkpoint_files import checkpoint_folder
from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import MetricError, StaleLeaseError
from eatnas_db.training_record import CheckpointRecord, EpochRecord, ResourceUse, ResumptionRecord
from eatnas_protocol.messages import AncestorRetrained, Checkpointed, EpochDone, Failed, Finished, Released, Resumed


class ReportWriter:
    """Writes the reports that a host's workers have sent since the last transaction."""

    def __init__(self, host: SupervisedHost, gpu_scheduler: WorkerScheduler) -> None:
        self._host, self._gpu_scheduler = host, gpu_scheduler

    def write_reports(self, connection: Connection, slot: Slot, now: float) -> list[str]:
        """Write the reports of a slot's worker. Return the checkpoint files to remove after the commit.

        Raises `StaleLeaseError`.
        """
        worker = slot.worker
        if worker is None:
            return []
        if worker.ready is not None and worker.worker_id is None:
            uuid = self._host.processor if worker.device.uuid == CPU else worker.device.uuid
            device_id = hosts.register_device(connection, self._host.id, uuid, worker.device.kind, worker.device.name)
            worker.worker_id = hosts.record_worker_start(connection, device_id, slot.number, worker.ready.pid, now)
        return [] if worker.training is None else self._write_training(connection, worker, worker.training, now)

    def _write_training(
        self, connection: Connection, worker: WorkerState, training: RunningTraining, now: float
    ) -> list[str]:
        obsolete_files: list[str] = []
        token = training.token
        epochs = [report for report in worker.reports if isinstance(report, EpochDone)]
        if epochs:
            records = [_epoch_record(report, training.resource_uses.get(report.epoch)) for report in epochs]
            training_record.record_epochs(connection, token, records, now)
        folder = checkpoint_folder(training.assignment.leased.search_id)
        for report in worker.reports:
            match report:
                case Checkpointed():
                    checkpoint = _checkpoint_record(report, folder + report.path)
                    obsolete_files += training_record.record_checkpoint(connection, token, checkpoint, now)
                case Resumed():
                    resumption = _resumption_record(report, folder)
                    obsolete_files += training_record.record_resumption(connection, token, resumption, now)
                case AncestorRetrained():
                    training_record.record_restoration(connection, token, report.ancestor, now)
                case Finished():
                    try:
                        record_result(connection, worker, training, report, now)
                    except MetricError as error:
                        self._write_failure(connection, worker, training, _without_score(report, error), now)
                case Released():
                    time = training.time
                    transitions.release(connection, token, time.device_seconds, now, step_seconds=time.step_seconds)
                case Failed():
                    self._write_failure(connection, worker, training, report, now)
        return obsolete_files

    def _write_failure(
        self, connection: Connection, worker: WorkerState, training: RunningTraining, report: Failed, now: float
    ) -> None:
        if report.kind in (FailureKind.UNREADABLE_DATA, FailureKind.MISSING_PLUGIN):
            # The candidate is not at fault: the machine, its images or its packages are. `SearchHolds` tries the search
            # again later.
            time = training.time
            transitions.release(connection, training.token, time.device_seconds, now, step_seconds=time.step_seconds)
            return
        # A failure on a broken GPU is not the candidate's fault, so the attempt counts as lost.
        lost = report.fatal and self._gpu_scheduler.is_broken(worker.device.uuid)
        transitions.record_failure(
            connection,
            training.token,
            FailureKind.LOST if lost else FailureKind(report.kind),
            report.message,
            traceback=report.traceback,
            device_seconds=training.time.device_seconds,
            step_seconds=training.time.step_seconds,
            next_alone=report.kind == FailureKind.LOST,
            now=now,
        )

    def write_time(self, connection: Connection, slot: Slot) -> None:
        """Write the time of a training that has lost its lease, for example because its candidate was cancelled."""
        if slot.training is not None:
            _write_time(connection, slot.training)

    def write_end(self, connection: Connection, worker: WorkerState, now: float, *, draining: bool) -> None:
        """Write the end of a worker, and the failure of its training if the last report of the training is missing."""
        failure = worker.kill_reason or _cause_of_death(worker.exit_status)
        if worker.worker_id is not None:
            reason = "the daemon was stopped" if draining and worker.exiting else failure.message
            hosts.record_worker_end(connection, worker.worker_id, worker.exit_reason or reason, now)
        training = worker.training
        if training is None or worker.has_final_report:
            return
        try:
            transitions.record_failure(
                connection,
                training.token,
                failure.kind,
                failure.message,
                device_seconds=training.time.device_seconds,
                step_seconds=training.time.step_seconds,
                by_another=worker.killed_by_another_lane,
                now=now,
            )
        except StaleLeaseError:
            _write_time(connection, training)


def _write_time(connection: Connection, training: RunningTraining) -> None:
    time = training.time
    raise_device_time(connection, training.token, device_seconds=time.device_seconds, step_seconds=time.step_seconds)


def _cause_of_death(exit_status: int | None) -> WorkerFailure:
    if exit_status is not None and exit_status < 0:
        kind = FailureKind.LOST if -exit_status in (signal.SIGKILL, signal.SIGTERM) else FailureKind.SIGNAL
        return WorkerFailure(kind, f"the worker was killed by {_signal_name(-exit_status)}")
    return WorkerFailure(FailureKind.LOST, f"the worker exited with status {exit_status}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"


def _epoch_record(report: EpochDone, use: ResourceUse | None) -> EpochRecord:
    return EpochRecord(
        number=report.epoch,
        train_loss=report.train_loss,
        train_accuracy=report.train_accuracy,
        val_loss=report.val_loss,
        val_accuracy=report.val_accuracy,
        learning_rate=report.learning_rate,
        seconds=report.seconds,
        ended_at=report.ended_at,
        resource_use=use,
        metrics=report.metrics,
    )


def _checkpoint_record(report: Checkpointed | Resumed, path: str) -> CheckpointRecord:
    return CheckpointRecord(
        path=path,
        digest=report.digest,
        bytes=report.bytes,
        epoch=report.epoch,
        batch=report.batch,
    )


def _resumption_record(report: Resumed, folder: str) -> ResumptionRecord:
    return ResumptionRecord(
        checkpoint=None if report.path is None else _checkpoint_record(report, folder + report.path),
        damaged={folder + path: reason for path, reason in report.damaged.items()},
    )


def _without_score(report: Finished, error: MetricError) -> Failed:
    return Failed(
        candidate=report.candidate,
        attempt=report.attempt,
        kind=FailureKind.EXCEPTION,
        message=str(error),
        traceback="",
        device_seconds=report.device_seconds,
    )
