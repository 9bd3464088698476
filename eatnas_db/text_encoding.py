"""Handle characters that a file, a terminal or a database cannot represent. This module imports only the standard
library.

If a file name or an argument is not valid text, Python decodes it to a string with lone surrogates. JSON can contain
escapes of lone surrogates. UTF-8 cannot encode lone surrogates. PostgreSQL stores no NUL. The encoding of a terminal or
a pipe may support few characters.
"""

from __future__ import annotations

import codecs
import json
import re
import sys
from io import TextIOWrapper
from typing import Any, Final
from unicodedata import category

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_ESCAPE_OF_UNSTORABLE: Final = re.compile(r"\\u(0000|d[89a-f])")
_HANDLER: Final = "eatnas_ascii_form"
_ASCII_FORMS: Final = {
    "─": "-",
    "━": "-",
    "│": "|",
    "├": "|",
    "┤": "|",
    "└": "`",
    "…": "~",
    "×": "x",
    "±": "~",
    "�": "?",
}
"""ASCII forms of the same width for the characters that this program itself prints."""


def is_storable(text: str) -> bool:
    """Return whether every database and every UTF-8 file can store a string."""
    return _UNSTORABLE.search(text) is None


def to_storable(text: str) -> str:
    """Return the string with U+FFFD, the replacement character, in place of each character that cannot be stored."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def escape_unstorable(text: str) -> str:
    r"""Return the string for a message: escapes such as `\udce9` replace the characters that cannot be stored."""
    return _UNSTORABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def escape_controls(text: str) -> str:
    r"""Return the string with escapes such as `\x1b` for control characters and invisible characters."""
    if text.isprintable():
        return text
    return "".join(sign if _is_visible(sign) else sign.encode("unicode_escape").decode("ascii") for sign in text)


def _is_visible(sign: str) -> bool:
    return sign.isprintable() or category(sign) == "Zs"  # allows spaces of other widths


def storable_json(value: Any) -> str:
    """Return a value as JSON in which U+FFFD replaces each character that cannot be stored."""
    text = json.dumps(value)
    return json.dumps(_storable_tree(value)) if _ESCAPE_OF_UNSTORABLE.search(text) else text


def _storable_tree(value: Any) -> Any:
    if isinstance(value, str):
        return to_storable(value)
    if isinstance(value, dict):
        return {_storable_tree(key): _storable_tree(inner) for key, inner in value.items()}
    return [_storable_tree(inner) for inner in value] if isinstance(value, list | tuple) else value


def find_unstorable(tree: Any) -> str | None:
    """Return the first string of a tree of mappings and lists that cannot be stored, with escapes; None if every string
    can be stored.
    """
    if isinstance(tree, str):
        return None if is_storable(tree) else escape_unstorable(tree)
    parts = [*tree, *tree.values()] if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return next((found for part in parts if (found := find_unstorable(part)) is not None), None)


def let_output_escape() -> None:
    """Let stdout and stderr write ASCII forms or escapes for characters that their encoding lacks, instead of failing.

    Every program calls this function before it prints.
    """
    codecs.register_error(_HANDLER, _to_ascii_form)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _to_ascii_form(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii_form, error.object[error.start : error.end])), error.end


def _ascii_form(sign: str) -> str:
    if sign == "\N{REPLACEMENT CHARACTER}":
        return "?"
    if sign in _ASCII_FORMS:
        return _ASCII_FORMS[sign]
    if "\u2800" <= sign <= "\u28ff":  # Braille patterns, the dots of a curve
        return " " if sign == "\u2800" else "*"
    return sign.encode("unicode_escape").decode("ascii")
