"""The macro: what a task fixes of a network, while the genotype stays free. A macro is data.

`eatnas-imagenet` is the authors' released network. Strides and sizes of the smaller ones are our choice:
no source states the paper's small-scale network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from eatnas_db.domain.architecture import Architecture
from eatnas_db.errors import InvalidArchitectureError

MINIMUM_CHANNELS: Final = 4


@dataclass(frozen=True, slots=True)
class Macro:
    """Stem, block strides and channels, head, and one multiplier of all channels of the blocks."""

    name: str
    stem_channels: int
    stem_stride: int
    strides: tuple[int, ...]
    base: tuple[int, ...]
    head_channels: int
    multiplier: float = 1.0

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Macro:
        """Return the macro that `to_json` was called on, from JSON that has lists for tuples."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Return the macro as plain JSON values."""
        return asdict(self)

    def block_channels(self, position: int, width: float) -> int:
        """Output channels of the block at `position` (from 0): `max(4, int(base * width * multiplier))`."""
        return max(MINIMUM_CHANNELS, int(self.base[position] * width * self.multiplier))

    def require(self, architecture: Architecture) -> None:
        """Raise `InvalidArchitectureError` unless the architecture has one block for each of the macro's."""
        if len(architecture.blocks) != len(self.base):
            raise InvalidArchitectureError(
                f"space {self.name} has {len(self.base)} blocks, the code has {len(architecture.blocks)}"
            )

    @property
    def reduction(self) -> int:
        """By how much the stem and the strides shrink an image's side."""
        return self.stem_stride * math.prod(self.strides)


@dataclass(frozen=True, slots=True)
class Task:
    """What the data fixes: side of the square image in pixels, its channels, and the number of classes."""

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
