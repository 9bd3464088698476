"""Shorten long values that an error message repeats."""

from __future__ import annotations

from typing import Final

MAX_CHARACTERS: Final = 300


def shorten_middle(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Return a text of at most `limit` characters: its beginning and its end if it is longer."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"
