"""Print sentences. On a terminal, sentences are folded to the terminal's width. Other output has one line for each
sentence.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from eatnas_cli.tables import terminal_width, text_width
from eatnas_db.text_encoding import escape_controls

_COMMAND: Final = re.compile("`[^`]*`")
_QUOTED: Final = re.compile("'[^']*'|\"[^\"]*\"")
_KEPT_SPACE: Final = "\0"
_INDENT, _CONTINUED = "  ", "      "


def print_sentence(text: str, *, error: bool = False) -> None:
    """Print a sentence on stdout, or on stderr if `error` is true. Control characters are escaped."""
    stream = sys.stderr if error else sys.stdout
    width = terminal_width(stream)
    line = escape_controls(text)
    stream.writelines(f"{part}\n" for part in ([line] if width is None else fold_sentence(line, width)))
    stream.flush()


def print_note(text: str) -> None:
    """Print a note on stderr."""
    print_sentence(f"note: {text}", error=True)


def print_command(command: str) -> None:
    """Print an indented shell command on stdout."""
    width = terminal_width()
    line = escape_controls(command)
    sys.stdout.writelines(f"{part}\n" for part in ([_INDENT + line] if width is None else fold_command(line, width)))
    sys.stdout.flush()


def fold_command(command: str, width: int) -> list[str]:
    """Return the indented lines of a command, joined by backslashes at their ends. Quoted words stay whole."""
    kept = _QUOTED.sub(lambda match: match[0].replace(" ", _KEPT_SPACE), command)
    first, *others = fold_sentence(kept, width - len(f"{_CONTINUED} \\"))
    lines = [_INDENT + first, *(_CONTINUED + line for line in others)]
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def fold_sentence(text: str, width: int) -> list[str]:
    """Return the lines of `text`, folded at spaces. Words stay whole, and so do commands in backticks that fit in a
    line.
    """
    kept = _COMMAND.sub(
        lambda match: match[0].replace(" ", _KEPT_SPACE) if text_width(match[0]) <= width else match[0], text
    )
    first, *words = kept.split(" ")
    lines = [first]
    for word in words:
        if text_width(lines[-1]) + 1 + text_width(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [line.replace(_KEPT_SPACE, " ").rstrip() for line in lines]
