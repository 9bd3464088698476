"""YAML numbers and booleans that keep their spelling, so that a string field receives `010` as written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PlainScalar:
    """An unquoted YAML scalar that is a number or a boolean: its spelling and its value."""

    text: str
    value: int | float | bool


def plain_values(tree: Any) -> Any:
    """Return the tree with each plain scalar replaced by its value."""
    return _replaced(tree, as_text=False)


def plain_texts(tree: Any) -> Any:
    """Return the tree with each plain scalar replaced by its spelling."""
    return _replaced(tree, as_text=True)


def _replaced(tree: Any, *, as_text: bool) -> Any:
    if isinstance(tree, PlainScalar):
        return tree.text if as_text else tree.value
    if isinstance(tree, dict):
        return {key: _replaced(value, as_text=as_text) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_replaced(value, as_text=as_text) for value in tree]
    return tree
