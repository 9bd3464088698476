"""Keep the draws of the next training steps in tables on the device, so that a step reads nothing from the host."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from eatnas_db.domain.spec_recipe import TrainingRecipe
from eatnas_training.data.augment import draw_shifts, shift_images
from eatnas_training.data.batches import BatchKey, DataPart, to_device
from eatnas_training.data.resident import ResidentPart
from eatnas_training.mixing import draw_boxes, erase_boxes
from eatnas_training.optimizer import recipe_rate

MAX_ROWS: Final = 256
"""The number of rows in the tables. Each row belongs to a step, so the host draws this many steps in advance."""


def key_of_batch(seed: int, recipe: TrainingRecipe, epoch: int, batch: int, *, rank: int = 0) -> BatchKey:
    """Return the key of a batch of a training, or of the part of the batch that a rank computes."""
    return BatchKey(
        augment=recipe.augment,
        seed=seed,
        size=recipe.batch_size,
        epoch=epoch,
        batch=batch,
        policy=recipe.auto_augment,
        rank=rank,
        ranks=recipe.devices,
    )


def table_part(recipe: TrainingRecipe, part: DataPart, *, resizes: bool) -> ResidentPart | None:
    """Return `part` if all draws of the recipe fit into tables, else None.

    Some features need work of the host in each step: images from files, operations of a policy, mixed images, dropped
    layers, averaged weights, a second resolution and several devices. A training with any of these features cannot use
    tables.
    """
    host_decides = (
        resizes
        or recipe.devices > 1
        or recipe.auto_augment != "none"
        or recipe.mixup
        or recipe.cutmix
        or recipe.stochastic_depth
        or recipe.dropout
        or recipe.ema_decay
    )
    return part if isinstance(part, ResidentPart) and not host_decides else None


def rate_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of a learning rate: fused optimizers read float32 on GPUs and float64 on processors."""
    return torch.float32 if device.type == "cuda" else torch.float64


def device_rate(rate: float, device: str) -> float:
    """Return a learning rate rounded to the device's dtype, so that steps give the same bits with a number as with a
    tensor.
    """
    return float(torch.tensor(rate, dtype=rate_dtype(torch.device(device))))


class StepTables:
    """The images, draws and learning rates of some steps, with a row for each step, and the number of the next row.

    The host calls `seek`, which fills the tables if the next step is not in them. `read` uses only the device.
    """

    def __init__(
        self,
        part: ResidentPart,
        seed: int,
        recipe: TrainingRecipe,
        batches: int,
        *,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self._part, self._seed, self._recipe, self._batches = part, seed, recipe, batches
        device = part.labels.device
        count, rows = min(recipe.batch_size, len(part.labels)), min(max_rows, batches)

        def integers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self._indices = integers(rows, count)
        self._shifts = None if recipe.augment == "none" else integers(rows, 3, count, 1)
        self._boxes = integers(rows, 4, count) if recipe.random_erasing else None
        self._rates = torch.zeros(rows, dtype=rate_dtype(device), device=device)
        self._row = integers(1)
        self._next: tuple[int, int] | None = None
        """The epoch and batch that `read` returns next; None if they are not in the tables."""
        self._end = (0, 0)
        """The epoch and batch after the last step in the tables."""

    @property
    def steps(self) -> int:
        """The number of steps of the whole training."""
        return self._recipe.epochs * self._batches

    @property
    def on_gpu(self) -> bool:
        """Whether the tables are on a GPU."""
        return self._row.is_cuda

    def seek(self, epoch: int, batch: int) -> None:
        """Make the next `read` return this batch, which may be the next batch or any other."""
        if self._next != (epoch, batch) or self._next == self._end:
            self._fill(epoch, batch)
        self._next = (epoch, batch + 1)

    def _fill(self, epoch: int, first: int) -> None:
        numbers = range(first, min(first + len(self._rates), self._batches))
        keys = [key_of_batch(self._seed, self._recipe, epoch, number) for number in numbers]
        part, count = self._part, self._indices.shape[1]
        height, width = part.images.shape[2:]
        self._copy(self._indices, [key.indices(len(part.labels)) for key in keys])
        if self._shifts is not None:
            draws = [draw_shifts(key, count, height) for key in keys]
            self._copy(self._shifts, [drawn for drawn in draws if drawn is not None])
        if self._boxes is not None:
            probability = self._recipe.random_erasing
            self._copy(self._boxes, [draw_boxes(key, count, (height, width), probability) for key in keys])
        rates = [recipe_rate(epoch * self._batches + number, self._recipe, self._batches) for number in numbers]
        self._copy(self._rates, list(torch.tensor(rates, dtype=self._rates.dtype)))
        self._row.zero_()
        self._next, self._end = (epoch, first), (epoch, numbers.stop)

    def _copy(self, table: Tensor, rows: list[Tensor]) -> None:
        table[: len(rows)].copy_(to_device(torch.stack(rows), table.device))

    def read(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, labels and learning rate of the next step, and advance to the following row."""
        part, row = self._part, self._row
        chosen = self._indices.index_select(0, row)[0]
        images = part.images[chosen]
        if self._shifts is not None:
            images = shift_images(images, self._shifts.index_select(0, row)[0], self._recipe.augment)
        images = part.normalize(images)
        if self._boxes is not None:
            images = erase_boxes(images, self._boxes.index_select(0, row)[0])
        rate = self._rates.index_select(0, row)[0]
        row += 1
        return images, part.labels[chosen], rate
