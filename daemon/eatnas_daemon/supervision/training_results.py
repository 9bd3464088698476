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
from eatnas_db.domain.objective import LATENCY, MULT_ADDS, PARAMS, TEST_ACCURACY, VALIDATION_ACCURACY, VALIDATION_LOSS
from eatnas_db.domain.objectives import select_values
from eatnas_db.domain.recipe import class_weights_of, without_timing
from eatnas_db.errors import MetricError
from eatnas_db.provenance import Provenance
from eatnas_db.schema.hosts import MAX_DEVICE_NAME
from eatnas_db.scores import Measurement
from eatnas_protocol.messages import Assign, Finished


def record_result(
    connection: Connection, worker: WorkerState, training: RunningTraining, report: Finished, now: float
) -> None:
    """Record the score of a training.

    Raises `StaleLeaseError` if the lease was lost, and `MetricError` if the training has no usable score.
    """
    assignment = training.assignment
    message = assignment.message
    recipe = {**without_timing(message.training), **class_weights_of(message.data), "precision": report.precision}
    if message.split_batches:  # the recorded recipe names this deviation from the recipe
        recipe["micro_batch"] = images_per_pass(message)
    if message.stop_after is not None:
        recipe["stopped_after"] = message.stop_after
    leased, objective, values = assignment.leased, assignment.objective, None
    metrics = _metrics(report, final=message.final_model)
    if message.final_model:
        value = metrics[TEST_ACCURACY]  # The fitness of a final model ignores the cost.
    else:
        if objective.metric not in metrics:
            raise MetricError(f"the training has not measured {objective.metric}")
        value = objective.fitness(metrics[objective.metric], leased.mult_adds)
        if assignment.objectives:
            values = select_values(assignment.objectives, {**metrics, **_costs(assignment, report)})
    transitions.record_score(
        connection,
        leased.token,
        fitness=value,
        metrics=metrics,
        seed=message.seed,
        objective=objective.metric,
        provenance=_provenance(recipe, report, worker),
        device_seconds=training.time.device_seconds,
        step_seconds=training.time.step_seconds,
        now=now,
        lineage_epochs=assignment.lineage_epochs,
        share_inherited=report.share_inherited,
        logit_distance=report.logit_distance,
        peak_bytes=report.peak_bytes,
        memory_share=_memory_share(assignment, report),
        objectives=values,
        measurements=_measurements(message, report),
        reached=assignment.rung,
    )


def _metrics(report: Finished, *, final: bool) -> dict[str, float]:
    """Return the scores of a training. Raises `MetricError` if the training has no score."""
    if report.metrics is not None:
        return report.metrics
    if report.accuracy is None or report.loss is None:
        raise MetricError("the training has not measured its accuracy or its loss")
    if final:
        return {TEST_ACCURACY: report.accuracy, "test_loss": report.loss}
    return {VALIDATION_ACCURACY: report.accuracy, VALIDATION_LOSS: report.loss}


def _costs(assignment: Assignment, report: Finished) -> dict[str, float]:
    """Return the metrics that are not scores: the costs of the network, and its latency if it was measured."""
    costs: dict[str, float] = {PARAMS: assignment.leased.params, MULT_ADDS: assignment.leased.mult_adds}
    return costs if report.latency_ms is None else {**costs, LATENCY: report.latency_ms}


def _measurements(message: Assign, report: Finished) -> list[Measurement]:
    settings, median = message.latency, report.latency_ms
    low, high = report.latency_low, report.latency_high
    if settings is None or median is None or low is None or high is None:
        return []
    name = (report.latency_device or settings["device"])[:MAX_DEVICE_NAME]
    latency = Measurement(
        metric=LATENCY,
        device_name=name,
        median=median,
        low=low,
        high=high,
        quiet=report.latency_quiet,
        **settings,
    )
    return [latency]


def _memory_share(assignment: Assignment, report: Finished) -> float | None:
    """Return the measured memory as a multiple of the estimate, or None on the CPU."""
    if report.peak_bytes is None:
        return None
    leased, images = assignment.leased, images_per_pass(assignment.message)
    estimated_bytes = variable_bytes(leased.params, leased.activations, images, assignment.precision)
    return measured_share_of_estimate(
        peak_bytes=report.peak_bytes, images_bytes=report.images_bytes, estimated_bytes=estimated_bytes
    )


def _provenance(recipe: dict[str, Any], report: Finished, worker: WorkerState) -> Provenance:
    ready = worker.ready
    assert ready is not None
    fields: dict[str, Any] = {
        "recipe": recipe,
        "data_digest": report.data_digest,
        "versions": {**report.versions, **ready.versions},
        "device": worker.device.name if worker.on_gpu else ready.device,
        "cpu_capability": ready.cpu_capability,
        "settings": ready.settings,
    }
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return Provenance(digest=digest, **fields)
