"""The search spaces by name, and the space that the record stores of a search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from eatnas_db.domain.macro import Macro
from eatnas_db.domain.space_definition import SpaceDefinition


def read_space(stored: Mapping[str, Any]) -> SpaceDefinition:
    """Return the space of which the record stores `stored`."""
    return _read_space(json.dumps(stored))


@lru_cache(maxsize=64)
def _read_space(stored: str) -> SpaceDefinition:
    return Macro.from_json(json.loads(stored))
