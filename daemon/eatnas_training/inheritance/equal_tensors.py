"""Inheritance for any space: a child inherits each tensor of its parent for which it has a tensor of the same name and
shape.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from eatnas_db.domain.operators import Layer
from eatnas_training.inheritance.transfer import Inheritance, NetworkSpec


def inherit_equal_tensors(
    parent_state: Mapping[str, Tensor], parent: NetworkSpec, model: nn.Module, child: NetworkSpec
) -> Inheritance:
    """Copy the parent's tensors into `model`, the newly initialized network of `child`, wherever name and shape are
    equal.
    """
    state = model.state_dict()
    fitting = {name: tensor for name, tensor in parent_state.items() if _fits(state.get(name), tensor)}
    with torch.no_grad():
        model.load_state_dict(fitting, strict=False)
    parameters = dict(model.named_parameters())
    copied = sum(parameter.numel() for name, parameter in parameters.items() if name in fitting)
    share = copied / max(sum(parameter.numel() for parameter in parameters.values()), 1)
    changed = tuple(
        number
        for number, (old, new) in enumerate(zip(parent.architecture, child.architecture, strict=True), 1)
        if old != new
    )
    return Inheritance(share, fitting.keys() == state.keys() == parent_state.keys(), changed)


def copy_equal_layer(parent: nn.Module, child: nn.Module, layer: Layer) -> int:
    """Copy tensors from a parent's layer to the child's layer, wherever name and shape are equal.

    Return the number of copied parameters.
    """
    state = child.state_dict()
    fitting = {name: tensor for name, tensor in parent.state_dict().items() if _fits(state.get(name), tensor)}
    child.load_state_dict(fitting, strict=False)
    return sum(parameter.numel() for name, parameter in child.named_parameters() if name in fitting)


def _fits(own: Tensor | None, other: Tensor) -> bool:
    return own is not None and own.shape == other.shape
