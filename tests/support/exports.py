"""Trained models for tests of the export that need no record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.objective import VALIDATION_ACCURACY
from eatnas_protocol.messages import Assign, Checkpointed
from eatnas_training.export.exporting import ExportRequest
from support.trainings import Reports, finished


def export_request(assign: Assign, reports: Reports, targets: dict[str, Path], **changes: Any) -> ExportRequest:
    """Return the request that exports a finished training; `changes` replace fields of the model."""
    done, saved = finished(reports), reports.of(Checkpointed)[-1]
    model = {
        "candidate_id": assign.candidate,
        "search": "tiny",
        "is_final": assign.final_model,
        "code": str(Architecture.from_code(assign.code)),
        "architecture_digest": "a" * 32,
        "params": 1,
        "mult_adds": 1,
        "macro": json.loads(json.dumps(assign.macro)),
        "task": assign.task,
        "data": assign.data,
        "data_digest": done.data_digest,
        "recipe": {**assign.training, "precision": done.precision},
        "seed": assign.seed,
        "metrics": {} if assign.final_model else {VALIDATION_ACCURACY: done.accuracy},
        "versions": {},
        "device": "cpu",
        "lineage": [],
        "checkpoint": saved.path,
        "checkpoint_digest": saved.digest,
        "host": "here",
        **changes,
    }
    return ExportRequest(
        model=model,
        data=assign.data,
        checkpoint=str(reports.last_checkpoint()),
        targets={name: str(path) for name, path in targets.items()},
    )
