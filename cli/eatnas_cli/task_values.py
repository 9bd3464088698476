"""The default images for which the costs of networks are counted, and the limits of the options that change them."""

from __future__ import annotations

from typing import Annotated, Final

import typer

DEFAULT_TASK: Final = {"resolution": 32, "channels": 3, "classes": 10}
MAX_VALUES: Final = {"resolution": 65_536, "channels": 65_536, "classes": 100_000_000}

Resolution = Annotated[
    int, typer.Option(min=1, max=MAX_VALUES["resolution"], help="Side of the images in pixels, for the counted cost.")
]
Channels = Annotated[
    int, typer.Option(min=1, max=MAX_VALUES["channels"], help="Channels of the images, for the counted cost.")
]
Classes = Annotated[
    int, typer.Option(min=1, max=MAX_VALUES["classes"], help="Number of classes, for the counted cost.")
]
