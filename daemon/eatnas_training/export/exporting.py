"""`python -m eatnas_training.export.exporting`: write a trained model in several formats, and verify each file.

The program reads an `ExportRequest` as JSON from stdin, and prints a JSON list with a `VerifiedFile` for each format.
After an error, it prints one line on stderr and writes no file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from eatnas_db.atomic_files import sync_and_replace
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import VALIDATION_ACCURACY
from eatnas_db.errors import DataError
from eatnas_db.interpreter import python_command
from eatnas_db.output_files import require_free
from eatnas_db.spaces import read_space
from eatnas_training.export.checkpoint_network import read_network
from eatnas_training.export.description import ModelDescription
from eatnas_training.export.formats import WRITERS, Writer, require_packages
from eatnas_training.export.program import limit_threads, run_program
from eatnas_training.export.validation_images import ValidationImages
from eatnas_training.export.verification import (
    DataRequest,
    FilesRequest,
    VerifiedFile,
    compute_logits,
    require_recorded_accuracy,
)

VERIFICATION_PROGRAM: Final = "eatnas_training.export.verification"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """A request for an export: the fields of a `TrainedModel`, with absolute paths.

    `targets` maps each format to its file. With `force`, existing files are replaced.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    checkpoint: str
    targets: dict[str, str]
    force: bool = False

    @property
    def images(self) -> DataRequest:
        """The request for the images with which the model is verified."""
        model = self.model
        return DataRequest(
            self.data, model["task"], model["data_digest"], model["is_final"], model["recipe"].get("end_resolution")
        )


def export_model(request: ExportRequest, writers: Mapping[str, Writer] = WRITERS) -> list[VerifiedFile]:
    """Write and verify all formats; return the files. Raises `DataError`, `ConflictError` or `OSError`."""
    require_packages(list(request.targets))
    targets = {name: Path(path) for name, path in request.targets.items()}
    _require_all_free(targets, force=request.force)
    with _start_verifier(request.images) as verifier:
        network, images, description = describe_model(request)
        limit_threads(request.model["mult_adds"] * len(images.labels))
        reference = compute_logits(network.to(memory_format=torch.channels_last), images.batches())
        _require_recorded(request, images, reference)
        network = network.to(memory_format=torch.contiguous_format)
        folder = next(iter(targets.values())).parent
        # Rename the files only after all of them are verified, so that no target is ever half-written.
        with tempfile.TemporaryDirectory(prefix=".eatnas-export-", dir=folder) as staging:
            staged = {name: Path(staging) / path.name for name, path in targets.items()}
            for name, path in staged.items():
                path.write_bytes(writers[name](network, description))
            logits = Path(staging) / "reference.npy"
            np.save(logits, reference.numpy())
            verified = _verify(
                verifier, FilesRequest(str(logits), list(map(str, staged.values())), description.mult_adds)
            )
            _require_all_free(targets, force=request.force)
            for name, path in staged.items():
                sync_and_replace(path, targets[name])
    return [replace(file, file=str(path)) for file, path in zip(verified, targets.values(), strict=True)]


def describe_model(request: ExportRequest) -> tuple[nn.Module, ValidationImages, ModelDescription]:
    """Return the network of the checkpoint, the validation images, and the model's description. Raises `DataError`."""
    model = request.model
    network = read_network(
        Path(request.checkpoint),
        model["checkpoint_digest"],
        architecture=model["code"],
        macro=read_space(model["macro"]),
        task=Task(**model["task"]),
    )
    images = request.images.load()
    description = ModelDescription(
        search=model["search"],
        candidate=model["candidate_id"],
        final=model["is_final"],
        architecture=model["code"],
        macro=model["macro"],
        task={**model["task"], "resolution": images.preprocessing.resolution},
        classes=images.classes,
        preprocessing=images.preprocessing,
        digests={
            "architecture": model["architecture_digest"],
            "data": model["data_digest"],
            "checkpoint": model["checkpoint_digest"],
        },
        recipe=model["recipe"],
        seed=model["seed"],
        metrics=model["metrics"],
        params=model["params"],
        mult_adds=model["mult_adds"],
        lineage=tuple(model["lineage"]),
        versions=model["versions"],
        device=model["device"],
    )
    return network, images, description


def _require_all_free(targets: Mapping[str, Path], *, force: bool) -> None:
    for path in targets.values():
        require_free(path, force=force)


def _require_recorded(request: ExportRequest, images: ValidationImages, logits: Tensor) -> None:
    recorded = request.model["metrics"].get(VALIDATION_ACCURACY)
    if recorded is None:  # a final model was trained on the validation images, so the record has no accuracy on them
        return
    require_recorded_accuracy(
        logits,
        images.labels,
        recorded=recorded,
        precision=request.model["recipe"].get("precision", "float32"),
        candidate=request.model["candidate_id"],
    )


@contextmanager
def _start_verifier(images: DataRequest) -> Iterator[subprocess.Popen[str]]:
    """Start the process that reads the files back. It loads torch and the images while this process writes."""
    with subprocess.Popen(
        python_command("-m", VERIFICATION_PROGRAM),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(asdict(images)) + "\n")
            process.stdin.flush()
            yield process
        finally:
            process.kill()


def _verify(verifier: subprocess.Popen[str], files: FilesRequest) -> list[VerifiedFile]:
    output, errors = verifier.communicate(json.dumps(asdict(files)) + "\n")
    if verifier.returncode != 0:
        lines = errors.strip().splitlines()
        raise DataError(lines[-1] if lines else f"the verification ended with status {verifier.returncode}; try again")
    return [VerifiedFile(**file) for file in json.loads(output)]


def main() -> list[dict[str, Any]]:
    """Export the model of the request on stdin."""
    return [asdict(file) for file in export_model(ExportRequest(**json.load(sys.stdin)))]


if __name__ == "__main__":
    run_program(main)
