"""The range of stored integers."""

from __future__ import annotations

from typing import Final

MAX_BIGINT: Final = 2**63 - 1
"""The largest number that an integer column holds; the drivers refuse larger numbers."""
