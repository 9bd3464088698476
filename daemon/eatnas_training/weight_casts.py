"""Cast all convolution weights of a network together, because autocast starts a kernel for each weight and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eatnas_protocol.messages import Assign
from eatnas_training.network import Convolution

Forward = Callable[[Tensor], Tensor]
"""A forward pass: computes logits `[N, classes]` from images."""


def forward_of(model: nn.Module, assign: Assign, precision: str) -> Forward:
    """Return the forward pass that the training of an assignment uses.

    In bfloat16, the forward pass of a built-in network casts the weights together. The code of a plug-in may use its
    weights in other ways, so in spaces with plug-ins autocast casts each weight separately.
    """
    return CastNetwork(model) if precision == "bfloat16" and "plugins" not in assign.macro else model


class CastNetwork:
    """Runs a built-in network, and casts all its convolution weights together. The results are bit-identical to those
    under autocast.

    The network keeps its float32 weights, and their gradients are float32. Each call casts the weights again, to new
    tensors. The classifier is not cast, because it computes in float32.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        parts = [(name, part) for name, part in model.named_modules() if isinstance(part, Convolution)]
        self._weights = {f"{name}.weight": part.weight for name, part in parts}

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits."""
        cast = _Cast.apply(*self._weights.values())
        logits: Tensor = functional_call(
            self._model, dict(zip(self._weights, cast, strict=True)), (images,), tie_weights=False
        )
        return logits


class _Cast(torch.autograd.Function):
    """Casts float32 tensors to bfloat16, and their gradients back to float32."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        # Otherwise, weights that do not affect the logits would get gradients of 0 instead of None.
        ctx.set_materialize_grads(False)
        return _cast(weights, torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        cast = iter(_cast(tuple(gradient for gradient in gradients if gradient is not None), torch.float32))
        return tuple(None if gradient is None else next(cast) for gradient in gradients)


def _cast(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    # Give the copies the strides of the originals. Otherwise torch would copy each tensor with a separate kernel.
    copies = tuple(torch.empty_like(tensor, dtype=dtype) for tensor in tensors)
    torch._foreach_copy_(copies, tensors)
    return copies
