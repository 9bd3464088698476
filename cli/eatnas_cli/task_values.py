"""The default shape of the images for which costs are computed, and the options that change this shape."""

from __future__ import annotations

from typing import Annotated, Final

import typer

DEFAULT_TASK: Final = {"resolution": 32, "channels": 3, "classes": 10}
MAX_VALUES: Final = {"resolution": 65_536, "channels": 65_536, "classes": 100_000_000}

Resolution = Annotated[
    int,
    typer.Option(
        min=1,
        max=MAX_VALUES["resolution"],
        help="Side of the images in pixels, used to compute parameters and mult-adds.",
    ),
]
Channels = Annotated[
    int,
    typer.Option(
        min=1,
        max=MAX_VALUES["channels"],
        help="Number of channels of the images, used to compute parameters and mult-adds.",
    ),
]
Classes = Annotated[
    int,
    typer.Option(min=1, max=MAX_VALUES["classes"], help="Number of classes, used to compute parameters and mult-adds."),
]
