"""Make layers and batch norms compute the identity, for added depth (Net2DeeperNet of Chen et al., 2016) and new
shortcuts.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from eatnas_training.inheritance.channel_statistics import Moments
from eatnas_training.inheritance.network_parts import LayerParts

NEAR_ZERO_GAMMA: Final = 0.01
"""The gamma of the last batch norm in a layer that is appended to a SepConv block with skip.

With a gamma of 0, the next ReLU would pass no gradient.
"""


def initialize_as_identity(layer: LayerParts, inputs: Moments) -> bool:
    """Make an appended layer compute the identity. Return whether the layer is exactly the identity in eval mode.

    `inputs` are the moments of the layer's input channels.
    """
    if not layer.identity:
        _set_identity_weights(layer, inputs)
        return True
    if layer.separable:
        layer.last.norm.weight.fill_(NEAR_ZERO_GAMMA)
        return False
    layer.last.norm.weight.zero_()
    return True


def _set_identity_weights(layer: LayerParts, inputs: Moments) -> None:
    """Make a layer without a shortcut return its inputs, which are never negative for a SepConv."""
    *expand, depthwise, project = layer.body
    every_channel = torch.arange(inputs.channels)
    unit = torch.eye(inputs.channels).to(inputs.mean)[:, :, None, None]
    hidden, hidden_inputs, projection = every_channel, inputs, unit
    if expand:
        # There are ReLUs between input and output, so compute x as max(x, 0) - max(-x, 0).
        hidden, projection = torch.arange(2 * inputs.channels), torch.cat([unit, -unit], 1)
        signed = Moments(torch.cat([inputs.mean, -inputs.mean]), inputs.var.repeat(2))
        expand[0].conv.weight[hidden] = projection.transpose(0, 1)
        set_identity_norm(expand[0].norm, hidden, signed)
        hidden_inputs = signed.rectified()
    center = depthwise.conv.kernel_size[0] // 2
    depthwise.conv.weight[hidden] = 0
    depthwise.conv.weight[hidden, :, center, center] = 1
    set_identity_norm(depthwise.norm, hidden, hidden_inputs)
    project.conv.weight.zero_()
    project.conv.weight[:, hidden] = projection
    set_identity_norm(project.norm, every_channel, inputs)


def set_identity_norm(norm: nn.BatchNorm2d, channels: Tensor, moments: Moments) -> None:
    """Make a batch norm the identity on `channels`.

    In eval mode, the batch norm is exactly the identity. In training mode, its inputs must also have these moments.
    """
    gamma = (moments.var + norm.eps).sqrt()
    values = {"weight": gamma, "bias": moments.mean, "running_mean": moments.mean, "running_var": moments.var}
    for name, tensor in values.items():
        getattr(norm, name)[channels] = tensor
