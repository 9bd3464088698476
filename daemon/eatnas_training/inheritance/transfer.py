"""Transfer weights from a parent network to its child by network morphism. docs/inheritance.md has the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.space_definition import SpaceDefinition
from eatnas_db.errors import PluginError
from eatnas_db.plugins import Plugin
from eatnas_training.building import build
from eatnas_training.inheritance.channel_statistics import (
    layer_input_weights,
    moments_after_layer,
    moments_after_relu,
    squared_input_weights,
)
from eatnas_training.inheritance.copying import WeightCopier
from eatnas_training.inheritance.network_parts import split_network
from eatnas_training.network import Network


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """The arguments of `building.build`."""

    architecture: Architecture
    macro: SpaceDefinition
    task: Task


@dataclass(frozen=True, slots=True)
class Inheritance:
    """The result of a transfer of weights.

    `share` is the share of the child's parameters, by elements, that are copied from the parent. `exact` is true if the
    child in eval mode computes its parent's logits, up to rounding. `reinitialized_blocks` has the numbers, counted
    from 1, of the blocks that inherit nothing.
    """

    share: float
    exact: bool
    reinitialized_blocks: tuple[int, ...]


def inherit(
    parent_state: Mapping[str, Tensor], parent: NetworkSpec, model: nn.Module, child: NetworkSpec
) -> Inheritance:
    """Write the parent's weights into `model`, as the child's space defines it. Raises `PluginError`."""
    reference = child.macro.inheritance
    if reference is None:
        raise PluginError(f"space {child.macro.name} has no way to inherit weights; use inheritance.weights: fresh")
    inheritance: Inheritance = Plugin(reference, reference).load()(parent_state, parent, model, child)
    return inheritance


def inherit_weights(
    parent_state: Mapping[str, Tensor], parent: NetworkSpec, model: Network, child: NetworkSpec
) -> Inheritance:
    """Write the parent's weights into `model`, the newly initialized network of `child`, by network morphism.

    New parts keep their initial weights, so no random numbers are drawn. Raises `RuntimeError` if `parent_state` does
    not fit the parent's network, and `ValueError` if parent and child differ in their numbers of blocks.
    """
    with torch.device("meta"):
        source = cast("Network", build(parent.architecture, parent.macro, parent.task))
    source.load_state_dict(parent_state, assign=True)
    with torch.no_grad():
        return _transfer(source, parent, model, child)


def _transfer(source: Network, parent: NetworkSpec, model: Network, child: NetworkSpec) -> Inheritance:
    old_macro, new_macro = cast("Macro", parent.macro), cast("Macro", child.macro)
    old = split_network(source, parent.architecture, old_macro, parent.task)
    new = split_network(model, child.architecture, new_macro, child.task)
    old_strides, new_strides = ((macro.stem_stride, macro.strides) for macro in (old_macro, new_macro))
    copier = WeightCopier(exact=old_strides == new_strides and parent.task == child.task)

    old_moments = moments_after_relu(old.stem.norm)
    channels = copier.map_channels(old_moments.var * layer_input_weights(old.blocks[0][0]), new.stem.channels)
    if parent.task.channels == child.task.channels:
        copier.copy_conv_norm(old.stem, new.stem, channels, torch.arange(child.task.channels))
    moments = moments_after_relu(new.stem.norm)

    reinitialized = []
    next_input_weights = [
        *(layer_input_weights(block[0]) for block in old.blocks[1:]),
        squared_input_weights(old.head.conv),
    ]
    for number, (old_block, new_block, next_weights) in enumerate(
        zip(old.blocks, new.blocks, next_input_weights, strict=True), 1
    ):
        inputs = channels
        for layer in old_block:
            old_moments = moments_after_layer(layer, old_moments)
        # With an identity as shortcut, the output channels must continue the input channels.
        if not (old_block[0].identity and new_block[0].identity):
            importance = old_moments.var * sum(map(layer_input_weights, old_block[1:]), next_weights)
            channels = copier.map_channels(importance, new_block[-1].outputs)
        if old_block[0].family == new_block[0].family and copier.can_copy(new_block[0]):
            copier.copy_block(old_block, new_block, inputs, channels, moments)
        else:
            copier.exact = False
            reinitialized.append(number)
        for layer in new_block:
            moments = moments_after_layer(layer, moments)

    head_importance = moments_after_relu(old.head.norm).var * squared_input_weights(old.classifier)
    head = copier.map_channels(head_importance, new.head.channels)
    copier.copy_conv_norm(old.head, new.head, head, channels)
    if parent.task.classes == child.task.classes:
        copier.copy_classifier(old.classifier, new.classifier, head)
    share = copier.copied / sum(parameter.numel() for parameter in model.parameters())
    return Inheritance(share, copier.exact, tuple(reinitialized))
