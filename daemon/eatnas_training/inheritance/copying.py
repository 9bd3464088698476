"""Copy weights between layers of different width, kernel size and depth (Net2WiderNet of Chen et al., 2016; kernel
growth).

A channel map is an int64 tensor `[channels of the child]`. For each channel of the child, the map has the index of the
parent's channel that the child's channel continues, or `NEW`. Weights from new channels to inherited channels are 0, so
that the inherited channels compute the same as in the parent. New channels keep their initial weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from eatnas_db.plugins import Plugin
from eatnas_training.building import OperatorError
from eatnas_training.data.random_states import watch_global_draws
from eatnas_training.inheritance.channel_statistics import (
    Moments,
    moments_after_layer,
    moments_after_relu,
    squared_input_weights,
)
from eatnas_training.inheritance.identity import initialize_as_identity, set_identity_norm
from eatnas_training.inheritance.network_parts import ConvNorm, LayerParts, PluginLayer

NEW: Final = -1


@dataclass(slots=True)
class WeightCopier:
    """Copies weights, counts the copied elements, and tracks whether the child still computes the parent's function."""

    exact: bool
    copied: int = 0

    def map_channels(self, importance: Tensor, count: int) -> Tensor:
        """Return the channel map of `count` channels: all of the parent's channels and then new ones.

        If `count` is smaller than the parent's number of channels, keep the most important channels in their original
        order. `importance` has one value for each channel of the parent.
        """
        available = len(importance)
        if count >= available:
            return torch.cat([torch.arange(available), torch.full((count - available,), NEW)])
        self.exact = False
        return importance.argsort(descending=True, stable=True)[:count].sort().values

    def copy_conv_norm(self, old: ConvNorm, new: ConvNorm, outputs: Tensor, inputs: Tensor) -> None:
        """Copy a convolution and its batch norm.

        A larger kernel gets the old kernel in its center and zeros around it.
        """
        size, old_size = new.conv.kernel_size[0], old.conv.kernel_size[0]
        self.exact &= size >= old_size
        window, old_window = _center(size, old_size), _center(old_size, size)
        rows, columns = _inherited(outputs), _inherited(inputs)
        copied = old.conv.weight[outputs[rows]][:, inputs[columns], old_window, old_window]
        new.conv.weight[rows] = 0
        new.conv.weight[rows[:, None], columns, window, window] = copied
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(new.norm, name)[rows] = getattr(old.norm, name)[outputs[rows]]
        self.copied += copied.numel() + 2 * len(rows)

    def copy_depthwise(self, old: ConvNorm, new: ConvNorm, channels: Tensor) -> None:
        """Copy a depthwise convolution, whose weights are `[channels, 1, k, k]`, and its batch norm."""
        self.copy_conv_norm(old, new, channels, torch.zeros(1, dtype=torch.int64))

    def copy_classifier(self, old: nn.Linear, new: nn.Linear, inputs: Tensor) -> None:
        """Copy the classifier. Both networks must have the same number of classes."""
        columns = _inherited(inputs)
        new.weight.zero_()
        new.weight[:, columns] = old.weight[:, inputs[columns]]
        new.bias.copy_(old.bias)
        self.copied += len(columns) * new.out_features + new.out_features

    def copy_block(
        self, old: list[LayerParts], new: list[LayerParts], inputs: Tensor, outputs: Tensor, moments: Moments
    ) -> None:
        """Copy the layers that exist in the old and in the new block. Additional layers of the child start as the
        identity.

        `moments` are the moments of the new block's input.
        """
        self.exact &= len(new) >= len(old)
        for old_layer, new_layer in zip(old, new, strict=False):
            self._copy_body(old_layer, new_layer, inputs, outputs)
            self._copy_shortcut(old_layer, new_layer, inputs, outputs, moments)
            inputs, moments = outputs, moments_after_layer(new_layer, moments)
        for layer in new[len(old) :]:
            if layer.plugin is not None:  # a plug-in's layer keeps its initial weights
                self.exact = False
                continue
            self.exact &= initialize_as_identity(layer, moments)
            moments = moments_after_layer(layer, moments)

    @staticmethod
    def can_copy(layer: LayerParts) -> bool:
        """Return whether the operator of a layer defines how to inherit the layer's weights."""
        return layer.plugin is None or layer.plugin.operator.inherit is not None

    def _copy_plugin(self, old: PluginLayer, new: PluginLayer) -> None:
        reference = new.operator.inherit
        assert reference is not None
        with watch_global_draws() as drawn:
            copied = int(Plugin(reference, reference).load()(old.module, new.module, new.layer))
        if drawn:
            raise OperatorError(
                f"operator {new.operator.name}: {reference} draws from the global generator of {' and '.join(drawn)}, "
                "so no training can be repeated; use no random numbers"
            )
        if not 0 <= copied <= (total := sum(parameter.numel() for parameter in new.module.parameters())):
            raise OperatorError(
                f"operator {new.operator.name}: {reference} returns {copied} copied elements, but the parameters "
                f"of the layer have {total}"
            )
        self.copied += copied
        self.exact = False

    def _copy_body(self, old: LayerParts, new: LayerParts, inputs: Tensor, outputs: Tensor) -> None:
        if old.plugin is not None and new.plugin is not None:
            self._copy_plugin(old.plugin, new.plugin)
            return
        if new.separable:
            self.copy_depthwise(old.body[0], new.body[0], inputs)
            self.copy_conv_norm(old.body[1], new.body[1], outputs, inputs)
            return
        importance = moments_after_relu(old.body[1].norm).var * squared_input_weights(old.body[2].conv)
        hidden = self.map_channels(importance, new.body[1].channels)
        self.copy_conv_norm(old.body[0], new.body[0], hidden, inputs)
        self.copy_depthwise(old.body[1], new.body[1], hidden)
        self.copy_conv_norm(old.body[2], new.body[2], outputs, hidden)

    def _copy_shortcut(
        self, old: LayerParts, new: LayerParts, inputs: Tensor, outputs: Tensor, moments: Moments
    ) -> None:
        """Copy a bypass, convert an identity to a bypass, or initialize a new bypass to zero."""
        if not new.bypass:
            self.exact &= new.identity == old.identity and not old.bypass
        elif old.bypass:
            self.copy_conv_norm(old.bypass, new.bypass, outputs, inputs)
        elif old.identity:
            rows = _inherited(outputs)
            same = (outputs[rows, None] == inputs).to(moments.mean)
            new.bypass.conv.weight[rows] = same[:, :, None, None]
            set_identity_norm(new.bypass.norm, rows, Moments(same @ moments.mean, same @ moments.var))
        else:
            new.bypass.norm.weight.zero_()


def _inherited(channel_map: Tensor) -> Tensor:
    """Return the indices of the child's channels that continue a channel of the parent."""
    return (channel_map != NEW).nonzero().flatten()


def _center(size: int, other: int) -> slice:
    """Return the part of `size` pixels that a centered kernel of `other` pixels covers."""
    margin = max(0, size - other) // 2
    return slice(margin, size - margin)
