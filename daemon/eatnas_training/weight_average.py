"""The exponential moving average of a network's weights and batch-norm statistics."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """An average of a network's states after each training step. Older states count less.

    torch's `AveragedModel` is not used, because its first update waits for the GPU and its decay cannot grow.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self.model.eval()
        self.model.requires_grad_(requires_grad=False)
        self._decay = decay

    def update(self, model: nn.Module, step: int) -> None:
        """Add the state of `model` after `step`, counted from 0. Early states decay faster, because they are worse."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        averages, values = _tensors(self.model), _tensors(model)
        with torch.no_grad():
            torch._foreach_lerp_(averages, values, weight)


def _tensors(model: nn.Module) -> list[Tensor]:
    """Return the weights and running statistics, without the counts of batches, which no computation uses."""
    return [tensor.detach() for tensor in model.state_dict().values() if tensor.is_floating_point()]
