"""Parse JSON, and refuse objects with duplicate keys."""

from __future__ import annotations

import json
from typing import Any

from eatnas_db.errors import EatnasError


class DuplicateKeyError(EatnasError):
    """A JSON object has a duplicate key. Python's parser would silently drop the first value."""


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON document. Raises `DuplicateKeyError`, and `ValueError` if `text` is not JSON."""
    return json.loads(text, object_pairs_hook=_require_distinct_keys)


def _require_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise DuplicateKeyError(f"the key {key!r} is given twice; remove one of them")
        content[key] = value
    return content
