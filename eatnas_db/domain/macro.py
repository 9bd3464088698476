"""Macros: the fixed parts of a network, around the blocks that a search is free to choose.

`eatnas-imagenet` is the network that the authors released. The strides and sizes of the smaller macros are our own
choice: no source gives the paper's small-scale network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from eatnas_db.domain.architecture import Architecture
from eatnas_db.errors import InvalidArchitectureError

MIN_CHANNELS: Final = 4


@dataclass(frozen=True, slots=True)
class Macro:
    """The stem, the strides and base channels of the blocks, the head, and a multiplier of all block channels."""

    name: str
    stem_channels: int
    stem_stride: int
    strides: tuple[int, ...]
    base: tuple[int, ...]
    head_channels: int
    multiplier: float = 1.0

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Macro:
        """Return the macro that `to_json` was called on; JSON has lists instead of tuples."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Return the macro as plain JSON values."""
        return asdict(self)

    def block_channels(self, position: int, width: float) -> int:
        """Return the output channels of the block at `position` (from 0), at least `MIN_CHANNELS`."""
        return max(MIN_CHANNELS, int(self.base[position] * width * self.multiplier))

    def require_block_count(self, architecture: Architecture) -> None:
        """Raise `InvalidArchitectureError` unless the architecture has as many blocks as the macro."""
        if len(architecture.blocks) != len(self.base):
            raise InvalidArchitectureError(
                f"space {self.name} has {len(self.base)} blocks, but the architecture has {len(architecture.blocks)}"
            )

    @property
    def reduction(self) -> int:
        """The factor by which the stem and the strides reduce the side of an image."""
        return self.stem_stride * math.prod(self.strides)


@dataclass(frozen=True, slots=True)
class Task:
    """The side of the square images in pixels, their channels, and the number of classes."""

    resolution: int
    channels: int
    classes: int


_MOBILENET_V2: Final = (16, 24, 32, 64, 96, 160, 320)

PRESETS: Final[dict[str, Macro]] = {
    macro.name: macro
    for macro in (
        Macro("eatnas-imagenet", 32, 2, (1, 2, 2, 2, 1, 2, 1), _MOBILENET_V2, 1280),
        Macro("eatnas-cifar", 32, 1, (1, 1, 2, 2, 1, 2, 1), _MOBILENET_V2, 1280),
        Macro("eatnas-small", 16, 2, (1, 1, 2, 1, 1, 2, 1), _MOBILENET_V2, 320, 0.25),
        Macro("eatnas-tiny", 8, 1, (1, 1, 2, 1, 1, 2, 1), _MOBILENET_V2, 128, 0.25),
    )
}
