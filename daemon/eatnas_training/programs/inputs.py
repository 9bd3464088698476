"""The arguments of a user's own training function: the candidate's network and its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from eatnas_db.spaces import read_space
from eatnas_protocol.messages import Assign
from eatnas_training.data.batches import LoadedData
from eatnas_training.state import build_network


@dataclass(frozen=True, slots=True)
class CandidateNetwork:
    """The network of a candidate: its architecture, and the torch module that the search space builds from it.

    A training function that interprets the architecture itself need not call `build`.
    """

    architecture: Any
    """The architecture, as an object of the search's space, for example with the attribute `blocks`."""
    _assign: Assign = field(repr=False)

    @property
    def code(self) -> str:
        """The architecture in readable notation."""
        return str(self.architecture)

    def build(self) -> nn.Module:
        """Return the network on the CPU, with the initial weights that the task's seed determines."""
        return build_network(self._assign)


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """The task for which a candidate is trained.

    `seed` is the seed of all random draws. `device` is `cpu` or `cuda:N`. `precision` is the recipe's precision on this
    device, `float32` or `bfloat16`. `resolution`, `channels` and `classes` describe the images or, with `data.name:
    none`, the images that are assumed for the costs of networks. `half_batches` is True after the training ran out of
    memory twice: the function should then compute each batch in two halves.
    """

    seed: int
    device: str
    precision: str
    resolution: int
    channels: int
    classes: int
    half_batches: bool
    _load: Callable[[], LoadedData] = field(repr=False)

    @property
    def data(self) -> LoadedData:
        """Return the images of `data.name` as `train` and `held_out`. Raises `DataError` if `data.name` is `none`."""
        return self._load()


def candidate_network(assign: Assign) -> CandidateNetwork:
    """Return the network of an assignment."""
    return CandidateNetwork(read_space(assign.macro).from_code(assign.code), assign)


def task_of(assign: Assign, *, device: str, precision: str, load: Callable[[], LoadedData]) -> TrainingTask:
    """Return the task of an assignment; `load` returns its images."""
    shape: dict[str, Any] = assign.task
    return TrainingTask(
        seed=assign.seed,
        device=device,
        precision=precision,
        resolution=shape["resolution"],
        channels=shape["channels"],
        classes=shape["classes"],
        half_batches=assign.split_batches,
        _load=load,
    )
