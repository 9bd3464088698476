"""Stochastic depth and dropout, with draws that are keyed by the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eatnas_training.data.batches import BatchKey, to_device
from eatnas_training.network import ResidualLayer


class RandomDrops:
    """Drops random bodies of residual layers, and random inputs of the classifier, while the network is in training
    mode.

    `stochastic_depth` is the share of images for which the body of the last residual layer is dropped; the share grows
    linearly from the first layer. `dropout` is the share of inputs of the classifier that are set to 0.
    """

    def __init__(self, model: nn.Module, *, stochastic_depth: float, dropout: float) -> None:
        bodies = [part.body for part in model.modules() if isinstance(part, ResidualLayer)] if stochastic_depth else []
        self._rates = [stochastic_depth * (number + 1) / len(bodies) for number in range(len(bodies))]
        classifier = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
        self._dropout, self._features = dropout, classifier.in_features
        self._device = classifier.weight.device
        self._body_factors: Sequence[Tensor] = ()
        self._feature_factors: Tensor | None = None
        self.part = slice(None)
        """The slice of the batch that the next forward pass computes."""
        for number, body in enumerate(bodies):
            body.register_forward_hook(self._drop_body(number))
        if dropout:
            classifier.register_forward_pre_hook(self._drop_features)

    def draw(self, key: BatchKey, count: int) -> None:
        """Draw which bodies and which inputs of the classifier are dropped, for the `count` images of a batch."""
        generator = torch.Generator().manual_seed(key.draw_seed("drops"))
        kept = 1 - torch.tensor(self._rates)[:, None]
        body_factors = (torch.rand((len(self._rates), count), generator=generator) < kept) / kept
        self._body_factors = list(to_device(body_factors, self._device)[:, :, None, None, None])
        if self._dropout:
            share = 1 - self._dropout
            feature_factors = (torch.rand((count, self._features), generator=generator) < share) / share
            self._feature_factors = to_device(feature_factors, self._device)

    def _drop_body(self, number: int) -> Any:
        def drop(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output * self._body_factors[number][self.part].to(output.dtype) if module.training else output

        return drop

    def _drop_features(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        if not module.training or self._feature_factors is None:
            return None
        return (inputs[0] * self._feature_factors[self.part],)
