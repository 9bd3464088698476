"""Load the validation images of a model, normalized as in the model's training, and describe the preprocessing for
other images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eatnas_db.domain.macro import Task
from eatnas_db.errors import DataError
from eatnas_training.data.batches import DataPart
from eatnas_training.data.class_names import list_class_names
from eatnas_training.data.decoding import CENTER_SHARE
from eatnas_training.data.loading import load_data
from eatnas_training.data.resident import ResidentPart, channel_statistics
from eatnas_training.data.streaming import DEVIATION, MEAN
from eatnas_training.export.description import Preprocessing

BATCH_IMAGES: Final = 256


@dataclass(frozen=True, slots=True)
class ValidationImages:
    """The validation images and the classes of a data set, and the preprocessing of its images."""

    part: DataPart
    preprocessing: Preprocessing
    classes: tuple[str, ...]

    @property
    def labels(self) -> Tensor:
        """int64 `[N]`."""
        return self.part.labels

    def batches(self) -> Iterator[Tensor]:
        """Yield the images in order: normalized float32 `[B, C, H, W]`. Raises `DataError`."""
        count = len(self.part.labels)
        for start in range(0, count, BATCH_IMAGES):
            yield self.part.between(start, min(start + BATCH_IMAGES, count))[0]


def load_validation(
    data: Mapping[str, Any], *, task: Task, digest: str, final: bool, end_resolution: int | None = None
) -> ValidationImages:
    """Load the validation images of a `DataSpec`, never its test images.

    With `final`, normalize the images as for a final model, which is also trained on the validation images. If
    `end_resolution`, the side in the final epochs of the training, is given, resize the images to this side. Raises
    `DataError` if the data set has changed since the search was created.
    """
    loaded = load_data(data, "cpu")
    if loaded.task != task or loaded.digest != digest:
        raise DataError(
            f"the data set {data['name']} has changed since the search was created: it had {task.describe()} "
            f"(digest {digest[:12]}), and has {loaded.task.describe()} (digest {loaded.digest[:12]}) now; restore the "
            "files of the data set"
        )
    if end_resolution is not None:
        task = replace(task, resolution=end_resolution)
        loaded = load_data({**data, "resolution": end_resolution}, "cpu")
    mode = "L" if task.channels == 1 else "RGB"
    train, part = loaded.train, loaded.held_out
    classes = list_class_names(data, task.classes)
    if not (isinstance(train, ResidentPart) and isinstance(part, ResidentPart)):
        preprocessing = Preprocessing(
            mode=mode,
            resolution=task.resolution,
            crop=CENTER_SHARE,
            interpolation="bilinear",
            rounding="pillow",
            mean=MEAN,
            deviation=DEVIATION,
        )
        return ValidationImages(part, preprocessing, classes)
    if final:
        images = np.concatenate([train.images.numpy(), part.images.numpy()])
        mean, scale = map(torch.from_numpy, channel_statistics(images))
        part = ResidentPart(images=part.images, labels=part.labels, mean=mean, scale=scale)
    preprocessing = Preprocessing(
        mode=mode,
        resolution=task.resolution,
        crop=1.0,
        interpolation="bilinear",
        rounding="once",
        mean=tuple((part.mean.double() / 255).flatten().tolist()),
        deviation=tuple((1 / part.scale.double() / 255).flatten().tolist()),
    )
    return ValidationImages(part, preprocessing, classes)
