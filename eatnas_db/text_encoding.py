"""Text from outside that may hold characters which no file, terminal or database can store. Standard library only.

Python reads a file name or an argument that is not valid text into lone surrogates, and JSON can name them. UTF-8
cannot encode them. PostgreSQL stores no NUL.
"""

from __future__ import annotations

import re
from typing import Final

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Return whether every database and every UTF-8 file can store a text."""
    return _UNSTORABLE.search(text) is None


def to_storable(text: str) -> str:
    """Return a text with U+FFFD, the replacement character, for each character that cannot be stored."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def escape_unstorable(text: str) -> str:
    r"""Return a text with escapes such as `\udce9` for characters that cannot be stored, for a message."""
    return _UNSTORABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
