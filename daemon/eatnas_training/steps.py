"""Compute the training and validation steps of one assignment, and measure their device seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from eatnas_db.domain.activations import VALIDATION_FACTOR
from eatnas_db.domain.data_source import names_a_path
from eatnas_db.domain.data_state import DataState
from eatnas_db.domain.macro import Task
from eatnas_db.domain.recipe import BALANCED
from eatnas_db.domain.spec_recipe import TrainingRecipe
from eatnas_db.errors import DataError
from eatnas_protocol.messages import Assign
from eatnas_training.data.batches import BatchKey, DataPart, LoadedData
from eatnas_training.data.folder_content import Steps, run_to_end
from eatnas_training.data.loading import loading_steps
from eatnas_training.dropping import RandomDrops
from eatnas_training.failures import DivergedError
from eatnas_training.inheritance.parent import TrainedNetwork, inherit_from
from eatnas_training.micro_batches import one_statistics_update
from eatnas_training.mixing import Mix, erase, mix
from eatnas_training.numerics import autocast, resolve_precision, use_deterministic_arithmetic
from eatnas_training.optimizer import recipe_rate
from eatnas_training.state import TrainingState, build_network, initial_state
from eatnas_training.step_graph import TableSteps
from eatnas_training.step_tables import StepTables, device_rate, key_of_batch, table_part
from eatnas_training.weight_casts import Forward, forward_of

Clock = Callable[[], float]


class Exchange(Protocol):
    """The exchange, in each step, between the processes of a training on several devices."""

    def begin_step(self) -> None:
        """Tell the other processes to begin the next step."""

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""


class StepRunner:
    """The recipe, data, network and optimizer of one assignment. Call `load` and `build` before any step.

    On a GPU, only `read_sums` and `require_finite_loss` wait for the device. On the CPU, each step checks the loss.

    With `tables`, the draws of a step come from tables on the device, and on a GPU the step is captured. The results
    have the same bits as without tables. Tables are the default on GPUs, if the recipe permits tables and the memory
    suffices for whole batches.
    """

    data: LoadedData
    state: TrainingState
    batches: int
    """The number of batches in an epoch."""

    def __init__(
        self,
        assign: Assign,
        device: str = "cpu",
        monotonic: Clock = time.monotonic,
        *,
        rank: int = 0,
        tables: bool | None = None,
    ) -> None:
        self.assign, self.device, self._monotonic, self._rank = assign, device, monotonic, rank
        on_gpu = torch.device(device).type == "cuda"
        self._wants_tables = (on_gpu and not assign.split_batches) if tables is None else tables
        self._table_steps: TableSteps | None = None
        self.exchange: Exchange | None = None
        self.recipe = TrainingRecipe(**assign.training)
        self.device_seconds = 0.0
        self._precision: str
        self._forward: Forward
        self._final_forward: Forward
        self._norms: list[nn.BatchNorm2d] = []
        self._class_weights: Tensor | None = None
        self._drops: RandomDrops | None = None
        self._end_data: LoadedData | None = None

    def load(self) -> None:
        """Load the images. Raises `DataError` if the images do not match the task."""
        run_to_end(self.load_steps())

    def load_steps(self) -> Steps[None]:
        """Load the images, and yield the progress. Raises `DataError` if the images do not match the task."""
        final_model, resolution = self.assign.final_model, self.recipe.end_resolution
        if resolution is not None and self.recipe.end_epochs:
            end_data = {**self.assign.data, "resolution": resolution}
            self._end_data = yield from loading_steps(end_data, self.device, final_model=final_model)
        self.data = yield from loading_steps(self.assign.data, self.device, final_model=final_model)
        if self.assign.data_state is not None:
            require_unchanged(self.assign, DataState.from_json(self.assign.data_state), self.data.state)
        task = Task(**self.assign.task)
        if self.data.task != task:
            raise DataError(
                f"the data set has {self.data.task.describe()}, but the search was created for {task.describe()}; "
                "restore the files of the data set, or create a new search"
            )
        batch_size = min(self.recipe.batch_size, len(self.data.train.labels))
        if self.recipe.devices > 1 and self.device != "cpu":
            raise DataError(f"final.devices={self.recipe.devices} works on CPUs only; use 1 on a GPU")
        if batch_size < 2 * self.recipe.devices:
            raise DataError(
                f"{self.recipe.devices} devices need batches of at least {2 * self.recipe.devices} images, but a batch "
                f"has {batch_size}; use fewer devices"
            )
        self.batches = max(1, len(self.data.train.labels) // self.recipe.batch_size)
        if self.assign.data.get("class_weights") == BALANCED:
            self._class_weights = balanced_weights(self.data.train.labels, task.classes).to(self.device)

    def build(self, parent: TrainedNetwork | None = None) -> None:
        """Build the network and its optimizer before the first batch, with the weights of `parent` if it is given.

        Earlier computations of this process do not change the bits of the result.
        """
        torch.set_num_threads(self.recipe.threads)
        use_deterministic_arithmetic(compiled="plugins" in self.assign.macro)
        self._precision = resolve_precision(self.device, self.recipe.precision)
        model = build_network(self.assign)
        inherited = None if parent is None else inherit_from(parent, model, self.assign, self.data)
        self.state = initial_state(model, self.recipe, self.device, self._precision)
        if self.recipe.stochastic_depth or self.recipe.dropout:
            self._drops = RandomDrops(model, stochastic_depth=self.recipe.stochastic_depth, dropout=self.recipe.dropout)
        self._norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
        self._forward, self._final_forward = (
            forward_of(network, self.assign, self._precision) for network in (model, self.state.final_model)
        )
        self._table_steps = self._make_table_steps()
        if inherited is not None:
            self.state.share_inherited, self.state.logit_distance = inherited

    def _make_table_steps(self) -> TableSteps | None:
        part = table_part(self.recipe, self.data.train, resizes=self._end_data is not None)
        if not self._wants_tables or part is None:
            return None
        return TableSteps(StepTables(part, self.assign.seed, self.recipe, self.batches), self.device)

    @property
    def warm_up_steps(self) -> int:
        """The number of slower first steps."""
        return 1 if self._table_steps is None else self._table_steps.warm_up_steps

    def train_step(self) -> None:
        """Train one batch and add its loss, correct predictions and images to the sums of the state."""
        started = self._monotonic()
        if self.exchange is not None:
            self.exchange.begin_step()
        rate = self.learning_rate(self.state.epoch * self.batches + self.state.batch)
        if self._table_steps is not None:
            self._table_steps.run(self.state.epoch, self.state.batch, self._train_row, self.state.optimizer)
        else:
            # a separate function, so that the time for freeing its tensors counts too
            self._train_batch(device_rate(rate, self.device))
        for group in self.state.optimizer.param_groups:
            group["lr"] = rate  # checkpoints store this number
        self.state.batch += 1
        self._add_seconds(started)
        if self.device == "cpu":  # on a GPU, this would wait for the step
            self.require_finite_loss()

    def _train_batch(self, rate: float) -> None:
        """Train the batch at the position of the state."""
        state = self.state
        key = key_of_batch(self.assign.seed, self.recipe, state.epoch, state.batch, rank=self._rank)
        images, labels = self._train_part().batch(key)
        images, mixed = self._change(images, labels, key)
        self._update(images, labels, mixed, rate)
        if state.average is not None:
            state.average.update(state.model, state.epoch * self.batches + state.batch)

    def _train_row(self, images: Tensor, labels: Tensor, rate: Tensor) -> None:
        """Train a batch from the tables without data from the host."""
        self._update(images.contiguous(memory_format=torch.channels_last), labels, None, rate)

    def _update(self, images: Tensor, labels: Tensor, mixed: Mix | None, rate: float | Tensor) -> None:
        """Compute the gradients of a batch and change the weights."""
        state, recipe = self.state, self.recipe
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        count, sums = len(labels), torch.zeros_like(state.sums)
        if self.assign.split_batches and count >= 4:  # each half needs two images for batch norm
            middle = (count + 1) // 2
            with one_statistics_update(self._norms):
                for part in (slice(0, middle), slice(middle, count)):
                    self._add_gradients(images, labels, mixed, part, sums)
        else:
            self._add_gradients(images, labels, mixed, slice(0, count), sums)
        if self.exchange is not None:
            gradients = [weight.grad for weight in state.model.parameters() if weight.grad is not None]
            self.exchange.add_up([*gradients, sums])
        state.sums += sums
        if recipe.clip_norm:
            clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
        state.optimizer.step()

    def _train_part(self) -> DataPart:
        """Return the training images at the resolution of the current epoch."""
        at_end = self.state.epoch >= self.recipe.epochs - self.recipe.end_epochs
        return (self._end_data if self._end_data is not None and at_end else self.data).train

    def _change(self, images: Tensor, labels: Tensor, key: BatchKey) -> tuple[Tensor, Mix | None]:
        """Apply the recipe's erasing and mixing to a whole batch, and draw which parts of the network to drop."""
        recipe = self.recipe
        if recipe.random_erasing:
            images = erase(images, key, recipe.random_erasing)
        mixed = None
        if recipe.mixup or recipe.cutmix:
            images, mixed = mix(images, labels, key, mixup=recipe.mixup, cutmix=recipe.cutmix)
        if self._drops is not None:
            self._drops.draw(key, len(labels))
        return images.contiguous(memory_format=torch.channels_last), mixed

    def _add_gradients(self, images: Tensor, labels: Tensor, mixed: Mix | None, part: slice, sums: Tensor) -> None:
        """Accumulate the gradients of `part` of the batch, and add its loss and correct predictions to `sums`."""
        batch_size = min(self.recipe.batch_size, len(self.data.train.labels))
        if self._drops is not None:
            self._drops.part = part
        images, labels = images[part], labels[part]
        share = len(labels) / batch_size
        with autocast(self.device, self._precision):
            logits = self._forward(images)
            loss = self._loss(logits, labels)
            if mixed is not None:
                loss = mixed.share * loss + (1 - mixed.share) * self._loss(logits, mixed.labels[part])
        (loss if share == 1 else loss * share).backward()  # type: ignore[no-untyped-call]
        _add(sums, loss.detach() * len(labels), logits.detach(), labels)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        weights, smoothing = self._class_weights, self.recipe.label_smoothing
        if weights is None:
            return cross_entropy(logits, labels, label_smoothing=smoothing)
        # Divide by the number of images instead of the sum of their weights, so that each part of a split batch counts
        # by its size.
        total = cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing, reduction="sum")
        return total / len(labels)

    def validate_step(self, start: int, sums: Tensor) -> int:
        """Evaluate a batch of held-out images, beginning at `start`. Return the start of the next batch.

        Add the loss, the correct predictions and the number of images to `sums`.
        """
        started = self._monotonic()
        factor = 1 if self.assign.split_batches else VALIDATION_FACTOR  # memory is short if batches are split
        stop = min(start + factor * self.recipe.batch_size, len(self.data.held_out.labels))
        self._validate_batch(start, stop, sums)
        self._add_seconds(started)
        return stop

    def _validate_batch(self, start: int, stop: int, sums: Tensor) -> None:
        self.state.final_model.eval()
        with torch.inference_mode(), autocast(self.device, self._precision):
            images, labels = self.held_out.between(start, stop)
            logits = self._final_forward(images)
            _add(sums, cross_entropy(logits, labels, reduction="sum"), logits, labels)
        self.state.model.train()

    @property
    def held_out(self) -> DataPart:
        """The validation or test images, at the resolution of the final epoch."""
        return (self._end_data or self.data).held_out

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from the start of the training."""
        return recipe_rate(step, self.recipe, self.batches)

    def read_sums(self, sums: Tensor) -> list[float]:
        """Return the sums as numbers. On a GPU, wait for the queued steps, and count the wait as device seconds."""
        started = self._monotonic()
        values: list[float] = sums.tolist()
        if self.device != "cpu":
            self._add_seconds(started)
        return values

    def require_finite_loss(self) -> None:
        """Raise `DivergedError` if the loss of the current epoch is not finite. On a GPU, wait for the queued steps."""
        require_finite(self.read_sums(self.state.sums)[0], self.state.epoch)

    def _add_seconds(self, started: float) -> None:
        seconds = self._monotonic() - started
        self.device_seconds += seconds * self.recipe.devices
        self.state.epoch_seconds += seconds


def require_unchanged(assign: Assign, at_creation: DataState, now: DataState) -> None:
    """Raise `DataError` if the images of an assignment have changed since its search was created."""
    change = at_creation.describe_change(now)
    if change is not None:
        name = assign.data["name"]
        place = name if names_a_path(name) else f"{name} in {assign.data.get('root')}"
        raise DataError(
            f"the images of {place} have changed since the search was created: {change}; restore them, or create a "
            "new search. `eatnas-db data verify` compares every byte"
        )


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return class weights, float32 `[classes]`: inversely proportional to a class's share, with mean 1 over images.

    Raises `DataError` if a class has no image.
    """
    counts = torch.bincount(labels.cpu(), minlength=classes)
    if empty := (counts == 0).nonzero().flatten().tolist():
        raise DataError(
            f"data.class_weights: balanced needs a training image of every class, and class {empty[0]} has none; "
            "set data.stratify to true, raise data.train_images, or set data.class_weights to none"
        )
    return (len(labels) / (classes * counts.double())).float()


def require_finite(loss: float, epoch: int) -> None:
    """Raise `DivergedError` if `loss` is infinite or NaN."""
    if not math.isfinite(loss):
        raise DivergedError(f"the loss is {loss} in epoch {epoch}")


def _add(sums: Tensor, loss_sum: Tensor, logits: Tensor, labels: Tensor) -> None:
    sums[0] += loss_sum
    sums[1] += (logits.argmax(1) == labels).sum()
    sums[2] += len(labels)
