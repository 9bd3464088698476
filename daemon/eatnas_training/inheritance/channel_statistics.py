"""Estimate for each channel the mean and variance of its activations, and its weight in the next layer."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eatnas_training.inheritance.network_parts import LayerParts


class Moments(NamedTuple):
    """The mean and variance of each channel over images and pixels, `[channels]`, derived from batch norms."""

    mean: Tensor
    var: Tensor

    @property
    def channels(self) -> int:
        """The number of channels."""
        return len(self.mean)

    def rectified(self) -> Moments:
        """Return the moments after a ReLU, for normally distributed values."""
        deviation = self.var.sqrt().clamp(min=1e-6)
        z = self.mean / deviation
        positive = torch.special.ndtr(z)
        density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
        mean = self.mean * positive + deviation * density
        square = (self.mean.square() + self.var) * positive + self.mean * deviation * density
        return Moments(mean, (square - mean.square()).clamp(min=0))

    def plus(self, other: Moments) -> Moments:
        """Return the moments of the sum of two independent values, whose moments are `self` and `other`."""
        return Moments(self.mean + other.mean, self.var + other.var)


def moments_after_norm(norm: nn.BatchNorm2d) -> Moments:
    """Return the moments of a batch norm's output."""
    return Moments(norm.bias.clone(), norm.weight.square())


def moments_after_relu(norm: nn.BatchNorm2d) -> Moments:
    """Return the moments of the output of the ReLU after a batch norm."""
    return moments_after_norm(norm).rectified()


def moments_after_layer(layer: LayerParts, inputs: Moments) -> Moments:
    """Return the moments of a layer's output from the moments of its input."""
    if layer.plugin is not None:
        # Only the operator knows what its layer computes, so take the moments after the layer's last batch norm.
        last, count = layer.plugin.last_norm, layer.outputs
        return Moments(torch.zeros(count), torch.ones(count)) if last is None else moments_after_norm(last)
    norm = layer.last.norm
    body = moments_after_relu(norm) if layer.separable else moments_after_norm(norm)
    if layer.identity:
        return body.plus(inputs)
    return body.plus(moments_after_norm(layer.bypass.norm)) if layer.bypass else body


def squared_input_weights(module: nn.Conv2d | nn.Linear) -> Tensor:
    """Return the sum of the squared weights that multiply each input channel, `[inputs]`."""
    return module.weight.square().transpose(0, 1).flatten(1).sum(1)


def layer_input_weights(layer: LayerParts) -> Tensor:
    """Return the importance of each input channel of a layer, as the sum of squared weights, `[inputs]`."""
    if layer.plugin is not None:
        return torch.ones(layer.plugin.layer.inputs)
    if layer.separable:
        weights = layer.body[0].norm.weight.square() * squared_input_weights(layer.body[1].conv)
    else:
        weights = squared_input_weights(layer.body[0].conv)
    return weights + squared_input_weights(layer.bypass.conv) if layer.bypass else weights
