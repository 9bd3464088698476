"""Change single keys of a spec, as `--set` does."""

from __future__ import annotations

from typing import Any

from eatnas_db.domain.plain_scalars import plain_values
from eatnas_db.errors import InvalidSpecError


def with_override(tree: dict[str, Any], keys: list[str], value: Any, path: str) -> dict[str, Any]:
    """Return the mapping with a value at the path `keys`; `path` is the key as the user wrote it."""
    head, *rest = keys
    if not head:
        raise InvalidSpecError(f"--set {path}: empty key; write section.key=value")
    if not rest:
        return {**tree, head: value}
    inner = tree.get(head, {})
    if not isinstance(inner, dict):
        raise InvalidSpecError(f"--set {path}: {head} is {plain_values(inner)!r}, not a section, so it has no keys")
    return {**tree, head: with_override(inner, rest, value, path)}
