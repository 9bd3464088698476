"""Draw the operations of RandAugment and TrivialAugment with torchvision's magnitudes. The key of a batch determines
its draws.

torchvision's own transforms draw from torch's global generator, which the decoding threads would use in an
unpredictable order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from eatnas_training.data.batches import BatchKey

BINS: Final = 31
RANDAUGMENT_OPERATIONS: Final = 2
RANDAUGMENT_BIN: Final = 9


@dataclass(frozen=True, slots=True)
class Operation:
    """The name of an operation on an image, and its magnitude.

    The magnitude is signed if the operation has two directions.
    """

    name: str
    magnitude: float

    def apply(self, image: Any) -> Any:
        """Return the changed image, a PIL image or a uint8 tensor `[..., C, H, W]`."""
        # Import only here, because torchvision takes seconds to load and most recipes have no policy.
        from eatnas_training.data.policy_operations import OPERATIONS

        return OPERATIONS[self.name](image, self.magnitude)


@dataclass(frozen=True, slots=True)
class _Range:
    """The range of magnitudes from `low` to `high`. If `scaled` is true, magnitudes are shares of the image's side."""

    low: float = 0.0
    high: float = 0.0
    signed: bool = False
    scaled: bool = False


_WIDE: Final = {
    "identity": _Range(),
    "shear_x": _Range(0, 0.99, signed=True),
    "shear_y": _Range(0, 0.99, signed=True),
    "translate_x": _Range(0, 32 / 224, signed=True, scaled=True),
    "translate_y": _Range(0, 32 / 224, signed=True, scaled=True),
    "rotate": _Range(0, 135, signed=True),
    "brightness": _Range(0, 0.99, signed=True),
    "color": _Range(0, 0.99, signed=True),
    "contrast": _Range(0, 0.99, signed=True),
    "sharpness": _Range(0, 0.99, signed=True),
    "posterize": _Range(8, 2),
    "solarize": _Range(255, 0),
    "autocontrast": _Range(),
    "equalize": _Range(),
}
"""The operations of TrivialAugment. torchvision translates by up to 32 pixels; this table translates by shares of the
image's side.
"""
_RANDAUGMENT: Final = {
    **_WIDE,
    "shear_x": _Range(0, 0.3, signed=True),
    "shear_y": _Range(0, 0.3, signed=True),
    "translate_x": _Range(0, 150 / 331, signed=True, scaled=True),
    "translate_y": _Range(0, 150 / 331, signed=True, scaled=True),
    "rotate": _Range(0, 30, signed=True),
    "brightness": _Range(0, 0.9, signed=True),
    "color": _Range(0, 0.9, signed=True),
    "contrast": _Range(0, 0.9, signed=True),
    "sharpness": _Range(0, 0.9, signed=True),
    "posterize": _Range(8, 4),
}


def draw_operations(key: BatchKey, count: int, side: int) -> Sequence[Sequence[Operation]]:
    """Return the operations for each of the `count` images of a batch. `side` is the side of the images in pixels."""
    if key.policy == "none":
        return [()] * count
    generator = torch.Generator().manual_seed(key.draw_seed("policy"))
    trivial = key.policy == "trivialaugment"
    ranges = _WIDE if trivial else _RANDAUGMENT
    names = list(ranges)
    shape = (count, 1 if trivial else RANDAUGMENT_OPERATIONS)
    choices = torch.randint(len(names), shape, generator=generator).tolist()
    bins = torch.randint(BINS, shape, generator=generator) if trivial else torch.full(shape, RANDAUGMENT_BIN)
    signs = torch.randint(2, shape, generator=generator).tolist()
    return [
        [
            Operation(names[choice], _magnitude(ranges[names[choice]], number, sign, side))
            for choice, number, sign in zip(*rows, strict=True)
        ]
        for rows in zip(choices, bins.tolist(), signs, strict=True)
    ]


def _magnitude(values: _Range, number: int, sign: int, side: int) -> float:
    magnitude = values.low + (values.high - values.low) * number / (BINS - 1)
    if values.scaled:
        magnitude *= side
    return -magnitude if values.signed and sign else magnitude
