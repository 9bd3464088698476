"""Shorten long values in error messages."""

from __future__ import annotations

import re
from typing import Final

MAX_CHARACTERS: Final = 300
_LONG_WORD: Final = re.compile(rf"\S{{{MAX_CHARACTERS + 1},}}")


def shorten_middle(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Shorten a string to at most `limit` characters: keep its beginning and its end, with an ellipsis between them."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def shorten_words(text: str) -> str:
    """Leave out the middle of each very long word, which is often a value quoted in a message."""
    return _LONG_WORD.sub(lambda match: shorten_middle(match[0]), text)
