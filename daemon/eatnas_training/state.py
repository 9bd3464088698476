"""The resumable state of a training, and its form in a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from eatnas_db.domain.cost import Cost
from eatnas_db.domain.macro import Task
from eatnas_db.domain.recipe import class_weights_of
from eatnas_db.domain.spec_recipe import TrainingRecipe
from eatnas_db.spaces import read_space
from eatnas_protocol.messages import Assign, EpochDone
from eatnas_training.building import build_initialized, build_with_plugins
from eatnas_training.failures import is_cuda_error, is_out_of_memory
from eatnas_training.optimizer import make_optimizer
from eatnas_training.weight_average import WeightAverage


@dataclass(slots=True)
class TrainingState:
    """The state of a training between two batches.

    `sums` has the loss, the correct predictions and the images of the current epoch so far, float64 `[3]` on the
    device. `precision` is `mixed` if devices of different precisions took part.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    sums: Tensor
    precision: str
    epoch: int = 0
    batch: int = 0
    epoch_seconds: float = 0.0
    epoch_reports: list[EpochDone] = field(default_factory=list)
    share_inherited: float | None = None
    logit_distance: float | None = None
    average: WeightAverage | None = None
    """The moving average of the weights, which is the final model; None if the recipe has no average."""

    @property
    def final_model(self) -> nn.Module:
        """The network that is evaluated and kept after the training."""
        return self.model if self.average is None else self.average.model

    def close_epoch(self, report: EpochDone) -> None:
        """Move to the first batch of the next epoch."""
        self.epoch_reports.append(report)
        self.epoch, self.batch, self.epoch_seconds = self.epoch + 1, 0, 0.0
        self.sums.zero_()

    def begin_epoch(self) -> None:
        """Move to the first batch of the next epoch, in a process that does not report epochs."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.sums.zero_()

    def to_checkpoint(self, identity: str) -> dict[str, Any]:
        """Return the complete state from which a process can resume this training with a bit-identical result."""
        content = {
            "identity": identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums,
            "precision": self.precision,
            "epoch": self.epoch,
            "batch": self.batch,
            "epoch_seconds": self.epoch_seconds,
            "epoch_reports": [asdict(report) for report in self.epoch_reports],
            "share_inherited": self.share_inherited,
            "logit_distance": self.logit_distance,
        }
        if self.average is not None:
            content["average"] = self.average.model.state_dict()
        return content

    def restore(self, saved: Mapping[str, Any], *, identity: str, attempt: int) -> None:
        """Restore the state from a checkpoint. Raises `ValueError` or `KeyError` if the checkpoint belongs to another
        training.
        """
        if saved["identity"] != identity:
            raise ValueError("it belongs to another network, recipe or seed")
        try:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.average is not None:
                self.average.model.load_state_dict(saved["average"])
            self.sums.copy_(saved["sums"])
        except RuntimeError as error:
            if is_out_of_memory(error) or is_cuda_error(error):  # the file is not the cause
                raise
            raise ValueError(str(error)) from error
        self.epoch, self.batch = saved["epoch"], saved["batch"]
        self.epoch_seconds = saved["epoch_seconds"]
        self.share_inherited, self.logit_distance = saved["share_inherited"], saved["logit_distance"]
        reports = [EpochDone(**fields) for fields in saved["epoch_reports"]]
        self.epoch_reports = [replace(report, attempt=attempt) for report in reports]
        # A checkpoint of another precision fits too, because weights are float32 in every precision. Mark the training
        # as mixed.
        self.precision = self.precision if saved["precision"] == self.precision else "mixed"


def identity_of(assign: Assign, recipe: TrainingRecipe, data_digest: str) -> str:
    """Return, as JSON, all values that determine the bits of a training's result. Checkpoints with other values are not
    used.
    """
    parent: list[Any] | bool = assign.inherits
    if assign.ancestors:
        parent = [assign.ancestors[-1][key] for key in ("candidate", "code", "training", "seed", "split_batches")]
    identity = {
        "code": assign.code,
        "macro": assign.macro,
        "task": assign.task,
        "recipe": {**recipe.without_timing(), **class_weights_of(assign.data)},
        "seed": assign.seed,
        "split_batches": assign.split_batches,
        "data_digest": data_digest,
        "parent": parent,
    }
    # Return JSON, in which tuples and lists are equal: an assignment from a pipe has lists in place of tuples.
    return json.dumps(identity, sort_keys=True)


def build_network(assign: Assign) -> nn.Module:
    """Return an assignment's network on the CPU, with the initial weights that the assignment's seed determines."""
    space = read_space(assign.macro)
    architecture, task = space.from_code(assign.code), Task(**assign.task)
    if "plugins" not in assign.macro:
        return build_initialized(architecture, space, task, assign.seed)
    recorded = None if assign.recorded_cost is None else Cost(**assign.recorded_cost)
    return build_with_plugins(architecture, space, task, assign.seed, recorded=recorded)


def initial_state(model: nn.Module, recipe: TrainingRecipe, device: str, precision: str) -> TrainingState:
    """Move a network to its device and return the state before the first batch."""
    model.to(device=device)
    # In torch's type stubs, `Module.to` has no overload with only a memory format.
    cast("Any", model).to(memory_format=torch.channels_last)
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    average = WeightAverage(model, recipe.ema_decay) if recipe.ema_decay else None
    return TrainingState(model, make_optimizer(model, recipe), sums, precision, average=average)
