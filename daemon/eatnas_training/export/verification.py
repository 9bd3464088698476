"""`python -m eatnas_training.export.verification`: read exported files back and compare them with their checkpoint.

The program reads two lines of JSON from stdin: a `DataRequest` and, once the files are written, a `FilesRequest`. In
between, it loads torch and the images. It prints a JSON list with a `VerifiedFile` for each file or, after an error,
one line on stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eatnas_db.domain.macro import Task
from eatnas_db.errors import DataError
from eatnas_training.export.model_files import Forward, open_model_file
from eatnas_training.export.program import limit_threads, run_program
from eatnas_training.export.validation_images import ValidationImages, load_validation

TOLERANCE: Final = 1e-4
LARGE_LOGIT: Final = 30.0
"""For logits above this value, the tolerance grows in proportion to the logits, because float32 has about seven
significant digits.
"""
LOW_PRECISION_SHARE: Final = 0.02
"""The share of the largest logit by which arithmetic of a lower precision than float32 may change a logit."""


@dataclass(frozen=True, slots=True)
class DataRequest:
    """A request for the images of a verification, with the arguments of `load_validation`."""

    data: dict[str, Any]
    task: dict[str, int]
    digest: str
    final: bool
    end_resolution: int | None = None
    """The side of the images in the final epochs of the model's training, if it differs from the side in `task`."""

    def load(self) -> ValidationImages:
        """Load the images. Raises `DataError`."""
        return load_validation(
            self.data,
            task=Task(**self.task),
            digest=self.digest,
            final=self.final,
            end_resolution=self.end_resolution,
        )


@dataclass(frozen=True, slots=True)
class FilesRequest:
    """The files to verify; `reference` is a `.npy` file with the checkpoint's logits, float32 `[N, classes]`."""

    reference: str
    files: list[str]
    mult_adds: int


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A verified file: its accuracy, and the largest difference of a logit from the checkpoint's logit."""

    file: str
    bytes: int
    accuracy: float
    difference: float


def compute_logits(forward: Forward, batches: Iterator[Tensor]) -> Tensor:
    """Return the logits of all images: float32 `[N, classes]`."""
    with torch.inference_mode():
        return torch.cat([forward(images).float() for images in batches])


def accuracy_of(logits: Tensor, labels: Tensor) -> float:
    """Return the share of correct predictions."""
    return int((logits.argmax(1) == labels).sum()) / len(labels)


def require_recorded_accuracy(
    logits: Tensor, labels: Tensor, *, recorded: float, precision: str, candidate: int
) -> None:
    """Raise `DataError` unless the logits of a checkpoint give the accuracy that its training recorded.

    If the two largest logits of an image differ by less than the precision of the training, the image may count as
    correct or as wrong.
    """
    exact = accuracy_of(logits, labels)
    margin = 10 * _tolerance(logits)
    if precision != "float32":
        margin = LOW_PRECISION_SHARE * float(logits.abs().max())
    top = logits.topk(min(2, logits.shape[1]), dim=1).values
    undecided = int((top[:, 0] - top[:, -1] <= margin).sum())
    if abs(round(recorded * len(labels)) - round(exact * len(labels))) > undecided:
        raise DataError(
            f"the checkpoint of candidate {candidate} has the accuracy {exact:.4f} on its {len(labels)} validation "
            f"images, but the record has {recorded:.4f}; nothing was written; the checkpoint file or the "
            "images have changed; restore them"
        )


def verify_file(path: Path, images: ValidationImages, reference: Tensor) -> VerifiedFile:
    """Read a file back and compare it with the logits of its checkpoint.

    Raises `DataError`, which names the largest difference, if this difference is too large.
    """
    logits = compute_logits(open_model_file(path).forward, images.batches())
    difference = float((logits - reference).abs().max())
    allowed = _tolerance(reference)
    if not difference <= allowed:  # written so that a NaN counts as too large
        raise DataError(
            f"{path.name} was not written: its logits differ from the checkpoint's by up to {difference:.3g} "
            f"(allowed: {allowed:.3g}); choose another --format, and please report this with the output of "
            "`eatnas-db doctor`"
        )
    return VerifiedFile(
        file=str(path),
        bytes=path.stat().st_size,
        accuracy=accuracy_of(logits, images.labels),
        difference=difference,
    )


def _tolerance(logits: Tensor) -> float:
    return TOLERANCE * max(1.0, float(logits.abs().max()) / LARGE_LOGIT)


def main() -> list[dict[str, Any]]:
    """Verify the files of the requests on stdin."""
    data = DataRequest(**json.loads(sys.stdin.readline()))
    images = data.load()
    line = sys.stdin.readline()
    if not line:  # the export has failed before it wrote the files
        return []
    files = FilesRequest(**json.loads(line))
    reference = torch.from_numpy(np.load(files.reference))
    limit_threads(files.mult_adds * len(images.labels))
    return [asdict(verify_file(Path(file), images, reference)) for file in files.files]


if __name__ == "__main__":
    run_program(main)
