"""The default images for which the costs of networks are counted, and the limits of the options that change them."""

from __future__ import annotations

from typing import Final

DEFAULT_TASK: Final = {"resolution": 32, "channels": 3, "classes": 10}
MAX_VALUES: Final = {"resolution": 65_536, "channels": 65_536, "classes": 100_000_000}
