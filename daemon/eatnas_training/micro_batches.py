"""Batch norm over micro-batches: update the running statistics once, with those of the whole batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class NormUpdate:
    """The update of one batch norm's running statistics with all micro-batches of a batch.

    Each micro-batch is normalized by its own mean and variance. The variance of the whole batch is the mean variance
    within the micro-batches plus the variance between their means.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self._norm = norm
        self._before = [buffer.clone() for buffer in self._buffers()]
        self._parts: list[tuple[int, Tensor, Tensor]] = []
        assert norm.momentum is not None
        self._momentum = norm.momentum
        norm.momentum = 1.0  # makes the running statistics equal the statistics of the last micro-batch
        self._hook = norm.register_forward_hook(self._add_part)

    def _buffers(self) -> tuple[Tensor, Tensor, Tensor]:
        mean, var, batches = self._norm.running_mean, self._norm.running_var, self._norm.num_batches_tracked
        assert mean is not None
        assert var is not None
        assert batches is not None
        return mean, var, batches

    def _add_part(self, _norm: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        mean, var, _ = self._buffers()
        self._parts.append((inputs[0].numel() // len(mean), mean.clone(), var.clone()))

    def end(self) -> None:
        """Stop observing forward passes. If there was a forward pass, update the running statistics."""
        self._hook.remove()
        self._norm.momentum = self._momentum
        mean, var, batches = self._buffers()
        for buffer, before in zip((mean, var, batches), self._before, strict=True):
            buffer.copy_(before)
        if self._parts:
            batch_mean, batch_var = _combine(self._parts)
            mean.lerp_(batch_mean, self._momentum)
            var.lerp_(batch_var, self._momentum)
            batches += 1


@contextmanager
def one_statistics_update(norms: Iterable[nn.BatchNorm2d]) -> Iterator[None]:
    """Update the running statistics of batch norms once for all forward passes in this context."""
    with torch.no_grad():
        updates = [NormUpdate(norm) for norm in norms]
    try:
        yield
    finally:
        with torch.no_grad():
            for update in updates:
                update.end()


def _combine(parts: list[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Combine the counts, means and variances of disjoint parts.

    Return the mean and the unbiased variance of the whole.
    """
    total = sum(count for count, _, _ in parts)
    mean = sum((count / total) * part_mean for count, part_mean, _ in parts)
    squares = sum((count - 1) * var + count * (part_mean - mean).square() for count, part_mean, var in parts)
    assert isinstance(mean, Tensor)
    assert isinstance(squares, Tensor)
    return mean, squares / (total - 1)
