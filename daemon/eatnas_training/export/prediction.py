"""`python -m eatnas_training.export.prediction`: classify images with an exported file.

The program reads a `PredictionRequest` as JSON from stdin, and prints a JSON list with a `Prediction` for each image
and class. After an error, it prints one line on stderr.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from eatnas_training.data.image_files import open_image
from eatnas_training.export.model_files import open_model_file
from eatnas_training.export.preprocessing import ImageTransform
from eatnas_training.export.program import limit_threads, run_program


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """An exported file, the images to classify, and the number of classes to return for each image."""

    file: str
    images: list[str]
    top: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class of an image with its rank; rank 1 is the most probable class."""

    image: str
    rank: int
    label: str
    probability: float


def predict(request: PredictionRequest) -> list[Prediction]:
    """Return the most probable classes of each image. Raises `DataError`, `NotFoundError`."""
    model = open_model_file(Path(request.file))
    limit_threads(model.description.mult_adds * len(request.images))
    transform = ImageTransform(model.description.preprocessing)
    predictions = []
    for image in request.images:
        with torch.inference_mode():
            logits = model.forward(transform(open_image(image))[None])
        shares, labels = logits[0].softmax(0).topk(min(request.top, len(model.description.classes)))
        predictions += [
            Prediction(image, rank, model.description.classes[label], share)
            for rank, (label, share) in enumerate(zip(labels.tolist(), shares.tolist(), strict=True), 1)
        ]
    return predictions


def main() -> list[dict[str, Any]]:
    """Classify the images of the request on stdin."""
    return [asdict(one) for one in predict(PredictionRequest(**json.load(sys.stdin)))]


if __name__ == "__main__":
    run_program(main)
