"""Compute the feature maps of a network's stages, which detectors and other networks take as input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor, nn

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Macro
from eatnas_training.network import Network

STEM_MODULES = 3
"""The number of modules in the stem: convolution, batch norm and ReLU."""


@dataclass(frozen=True, slots=True)
class StageInfo:
    """The channels of each stage's feature map, and the factor by which its side is smaller than the image's side."""

    stage_channels: tuple[int, ...]
    stage_reductions: tuple[int, ...]

    def channels(self) -> list[int]:
        """Return the channels of each feature map, as timm's `feature_info` does."""
        return list(self.stage_channels)

    def reduction(self) -> list[int]:
        """Return the reduction of each feature map, as timm's `feature_info` does."""
        return list(self.stage_reductions)


class StageFeatures(nn.Module):
    """A network without its head, which maps images to a list of feature maps, one for each resolution.

    A feature map is the output of the last layer of a resolution. `feature_info` has the channels and reductions of the
    feature maps.
    """

    def __init__(self, network: Network, architecture: Architecture, macro: Macro) -> None:
        super().__init__()
        ends, self.feature_info = _stages(architecture, macro)
        layers = list(network.features)
        starts = (0, *ends[:-1])
        self.stages = nn.ModuleList(nn.Sequential(*layers[start:end]) for start, end in zip(starts, ends, strict=True))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps, the largest first."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps


def _stages(architecture: Architecture, macro: Macro) -> tuple[Sequence[int], StageInfo]:
    """Return the index after the last module of each stage, and the description of the stages."""
    widths = [macro.block_channels(position, block.width) for position, block in enumerate(architecture.blocks)]
    # For each part of the network, beginning with the stem: the index of the module after it, its channels and its
    # reduction.
    ends = list(accumulate((block.depth for block in architecture.blocks), initial=STEM_MODULES))
    channels = [macro.stem_channels, *widths]
    reductions = list(accumulate(macro.strides, lambda factor, stride: factor * stride, initial=macro.stem_stride))
    last = [index for index in range(len(ends)) if index + 1 == len(ends) or reductions[index + 1] != reductions[index]]
    info = StageInfo(tuple(channels[index] for index in last), tuple(reductions[index] for index in last))
    return [ends[index] for index in last], info
