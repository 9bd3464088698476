"""A mapping from names to the operations of RandAugment and TrivialAugment, which torchvision computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional


def _affine(image: Any, *, shift: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> Any:
    return functional.affine(
        image,
        angle=0.0,
        translate=list(shift),
        scale=1.0,
        shear=list(shear),
        interpolation=InterpolationMode.NEAREST,
        center=None if shear == (0.0, 0.0) else [0.0, 0.0],
    )


def _degrees(magnitude: float) -> float:
    return math.degrees(math.atan(magnitude))


def _enhance(function: Callable[[Any, float], Any], image: Any, magnitude: float) -> Any:
    return function(image, 1 + magnitude)


OPERATIONS: Final[dict[str, Callable[[Any, float], Any]]] = {
    "identity": lambda image, _: image,
    "shear_x": lambda image, magnitude: _affine(image, shear=(_degrees(magnitude), 0.0)),
    "shear_y": lambda image, magnitude: _affine(image, shear=(0.0, _degrees(magnitude))),
    "translate_x": lambda image, magnitude: _affine(image, shift=(int(magnitude), 0)),
    "translate_y": lambda image, magnitude: _affine(image, shift=(0, int(magnitude))),
    "rotate": lambda image, magnitude: functional.rotate(image, magnitude),
    "brightness": partial(_enhance, functional.adjust_brightness),
    "color": partial(_enhance, functional.adjust_saturation),
    "contrast": partial(_enhance, functional.adjust_contrast),
    "sharpness": partial(_enhance, functional.adjust_sharpness),
    "posterize": lambda image, magnitude: functional.posterize(image, round(magnitude)),
    "solarize": lambda image, magnitude: functional.solarize(image, magnitude),
    "autocontrast": lambda image, _: functional.autocontrast(image),
    "equalize": lambda image, _: functional.equalize(image),
}
