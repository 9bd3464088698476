"""Record the result of a finished training: its score, its fitness and its provenance."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import Connection

from eatnas_daemon.workers.assignments import Assignment, images_per_pass
from eatnas_daemon.workers.running_training import RunningTraining
from eatnas_daemon.workers.worker_state import WorkerState
from eatnas_db import transitions
from eatnas_db.domain.memory_estimate import measured_share_of_estimate, variable_bytes
from eatnas_db.domain.objective import TEST_ACCURACY, VALIDATION_ACCURACY
from eatnas_db.domain.recipe import class_weights_of, without_timing
from eatnas_db.provenance import Provenance
from eatnas_protocol.messages import Finished


def record_result(
    connection: Connection, worker: WorkerState, training: RunningTraining, report: Finished, now: float
) -> None:
    """Record the score of a training. Raises `StaleLeaseError`."""
    assignment = training.assignment
    message = assignment.message
    recipe = {**without_timing(message.training), **class_weights_of(message.data), "precision": report.precision}
    if message.split_batches:  # a deviation from the recipe, recorded with the score
        recipe["micro_batch"] = images_per_pass(message)
    leased, objective = assignment.leased, assignment.objective
    if message.final_model:
        metrics = {TEST_ACCURACY: report.accuracy, "test_loss": report.loss}
        value = report.accuracy  # A final model is not judged by its cost.
    else:
        metrics = {VALIDATION_ACCURACY: report.accuracy, "val_loss": report.loss}
        value = objective.fitness(metrics[objective.metric], leased.mult_adds)
    transitions.record_score(
        connection,
        leased.token,
        fitness=value,
        metrics=metrics,
        seed=message.seed,
        objective=objective.metric,
        provenance=_provenance(recipe, report.data_digest, worker),
        device_seconds=training.time.device_seconds,
        step_seconds=training.time.step_seconds,
        now=now,
        lineage_epochs=assignment.lineage_epochs,
        share_inherited=report.share_inherited,
        logit_distance=report.logit_distance,
        peak_bytes=report.peak_bytes,
        memory_share=_memory_share(assignment, report),
    )


def _memory_share(assignment: Assignment, report: Finished) -> float | None:
    """Return the measured memory as a multiple of the estimate, or None on the processor."""
    if report.peak_bytes is None:
        return None
    leased, images = assignment.leased, images_per_pass(assignment.message)
    estimated_bytes = variable_bytes(leased.params, leased.activations, images, assignment.precision)
    return measured_share_of_estimate(
        peak_bytes=report.peak_bytes, images_bytes=report.images_bytes, estimated_bytes=estimated_bytes
    )


def _provenance(recipe: dict[str, Any], data_digest: str, worker: WorkerState) -> Provenance:
    ready = worker.ready
    assert ready is not None
    fields: dict[str, Any] = {
        "recipe": recipe,
        "data_digest": data_digest,
        "versions": ready.versions,
        "device": worker.device.name if worker.on_gpu else ready.device,
        "cpu_capability": ready.cpu_capability,
        "settings": ready.settings,
    }
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return Provenance(digest=digest, **fields)
