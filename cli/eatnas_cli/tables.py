"""Lay out tables that fit the width of a terminal. Line breaks never split a word or a number.

A table that is too wide becomes narrower in steps: the widest texts are folded between words, the middle of words that
are longer than their column is cut out, and finally columns are left out. Output that is not a terminal has no width,
because a program that reads the output expects each row on one line.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final, TextIO
from unicodedata import combining, east_asian_width

from eatnas_cli.values import as_text, is_number
from eatnas_report.formats import format_time

AS_GIVEN: Final = ("width", "multiplier", "learning_rate")
"""Columns whose numbers are printed unchanged. The numbers of a spec, whose names contain dots, also stay unchanged."""
LARGE: Final = 1e12
"""Numbers of at least this size are printed with an exponent."""
SHORTENED: Final = ("code", "digest", "sha256", "uuid")
"""Columns whose values stay on one line, because a folded code would be unreadable."""
SHORTEST_WORD: Final = 16
"""The minimum number of characters of a shortened word."""
FIRST_LEFT_OUT: Final = ("started_at", "device_seconds")
LAST_LEFT_OUT: Final = ("message", "what happened", "words", "cause", "found", "advice")
"""The most informative columns, which are left out last."""
GAP, SMALLEST_GAP = 3, 2
MARGIN: Final = 2
ELLIPSIS: Final = "…"


@dataclass(frozen=True, slots=True)
class Table:
    """The lines of a table, and the columns that did not fit."""

    lines: tuple[str, ...]
    left_out: tuple[str, ...] = ()


@dataclass(eq=False, slots=True)
class _Column:
    """A column: the texts of its cells, its width, and the smallest width that it can take."""

    name: str
    head: str
    texts: list[str]
    align_right: bool
    width: int
    smallest: int

    def leave_out_rank(self, position: int) -> tuple[int, int]:
        """Return the position of a column in the order in which columns are left out.

        Empty columns come first, then the columns in `FIRST_LEFT_OUT`, other columns, and those in `LAST_LEFT_OUT`. Of
        each kind, the rightmost column is left out first.
        """
        if not any(self.texts):
            return 0, -position
        if self.name in FIRST_LEFT_OUT:
            return 1, -position
        return (3 if self.name in LAST_LEFT_OUT else 2), -position

    def cell(self, text: str) -> list[str]:
        """Return the lines of a cell, none wider than the column."""
        if text_width(text) <= self.width and "\n" not in text:
            return [text]
        if self.name in SHORTENED:
            return [shorten(" ".join(text.split()), self.width)]
        return [line for part in text.split("\n") for line in fold(part, self.width)]


def print_table(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int | None, *, keep_all: bool = False
) -> tuple[str, ...]:
    """Print records as a table of `columns`, and return the columns that did not fit.

    With `keep_all`, leave out no column.
    """
    table = lay_out(records, columns, width, keep_all=keep_all)
    sys.stdout.writelines(f"{line}\n" for line in table.lines)
    return table.left_out


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Return the width of the terminal, or the value of `COLUMNS`; None if the stream is not a terminal."""
    return shutil.get_terminal_size().columns if (stream or sys.stdout).isatty() else None


def lay_out(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int | None, *, keep_all: bool = False
) -> Table:
    """Return records as a table that fits `width`, or as a table of any width if `width` is None."""
    shown = [_make_column(records, name) for name in columns]
    gap = GAP
    if width is not None:
        if _total([column.width for column in shown], gap) > width:
            gap = SMALLEST_GAP
        if not keep_all:
            shown = _leave_out(shown, width, gap)
        _narrow(shown, width, gap)
    lines = [""]
    for number in range(-1, len(records)):
        cells = [column.cell(column.head if number < 0 else column.texts[number]) for column in shown]
        lines += (_line(part, shown, gap) for part in zip_longest(*cells, fillvalue=""))
        if number < 0:
            lines.append(" " + "─" * (_total([column.width for column in shown], gap) - 1))
    fitting = {column.name for column in shown}
    return Table((*lines, ""), tuple(name for name in columns if name not in fitting))


def _leave_out(columns: Sequence[_Column], width: int, gap: int) -> list[_Column]:
    """Return the columns that fit. The first column always stays."""
    order = sorted(range(1, len(columns)), key=lambda at: columns[at].leave_out_rank(at))
    kept = list(columns)
    for at in order:
        if _total([column.smallest for column in kept], gap) <= width:
            break
        kept.remove(columns[at])
    return kept


def _make_column(records: Sequence[Mapping[str, Any]], name: str) -> _Column:
    head = name.replace("_", " ")
    texts = [cell_text(name, record[name]) for record in records]
    is_numeric = any(is_number(record[name]) for record in records)
    width = max([text_width(line) for text in (head, *texts) for line in text.split("\n")])
    words = max(text_width(word) for word in head.split() or [""])
    if is_numeric or name == "at" or name.endswith("_at"):
        smallest = max([words, *map(text_width, texts)])
    else:
        longest = max([text_width(word) for text in texts for word in text.split()], default=0)
        smallest = max(words, min(longest, SHORTEST_WORD), min(width, SHORTEST_WORD) if name in SHORTENED else 0)
    return _Column(name, head, texts, is_numeric, width, smallest)


def _total(widths: Sequence[int], gap: int) -> int:
    return MARGIN + sum(widths) + gap * (len(widths) - 1)


def _narrow(columns: Sequence[_Column], width: int, gap: int) -> None:
    """Make the widest columns narrower until the table fits."""
    excess = _total([column.width for column in columns], gap) - width
    while excess > 0:
        wide = [column for column in columns if column.width > column.smallest]
        if not wide:
            return
        widest = max(wide, key=lambda column: column.width)
        others = [column.width for column in wide if column is not widest]
        step = max(1, min(excess, widest.width - max([*others, widest.smallest])))
        widest.width -= step
        excess -= step


def _line(cells: Sequence[str], columns: Sequence[_Column], gap: int) -> str:
    padded = (_pad(text, column) for text, column in zip(cells, columns, strict=True))
    return (" " * MARGIN + (" " * gap).join(padded)).rstrip()


def _pad(text: str, column: _Column) -> str:
    padding = " " * (column.width - text_width(text))
    return padding + text if column.align_right else text + padding


def fold(text: str, width: int) -> list[str]:
    """Return the lines of `text`, folded between words. A word that is wider than `width` is shortened."""
    lines: list[str] = []
    for word in text.split():
        short = shorten(word, width)
        if lines and text_width(lines[-1]) + 1 + text_width(short) <= width:
            lines[-1] += f" {short}"
        else:
            lines.append(short)
    return lines or [""]


def shorten(text: str, width: int) -> str:
    """Return `text`, shortened to at most `width` terminal columns: keep the beginning and the end of a wider text."""
    if text_width(text) <= width:
        return text
    if width < 3:
        return ELLIPSIS[:width]
    room = width - 1
    head = _take(text, (room + 1) // 2)
    return head + ELLIPSIS + _take(text[::-1], room - text_width(head))[::-1]


def _take(text: str, width: int) -> str:
    """Return the longest prefix of `text` that takes at most `width` terminal columns."""
    end = min(len(text), width)
    while text_width(text[:end]) > width:
        end -= 1
    return text[:end]


def text_width(text: str) -> int:
    """Return the number of terminal columns that `text` takes."""
    if text.isascii():
        return len(text)
    wide = sum(east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(combining(sign) != 0 for sign in text)


def cell_text(column: str, value: Any) -> str:
    """Return a value as text for a cell of this column: times are formatted, and numbers are rounded or get commas."""
    if isinstance(value, float) and (column == "at" or column.endswith("_at")):
        return format_time(value)
    if isinstance(value, float):
        as_given = column in AS_GIVEN or "." in column or abs(value) >= LARGE
        return f"{value:g}" if as_given else f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool) and column in ("params", "mult_adds"):
        return f"{value:,}"
    text = as_text(value)
    # Replace control characters: messages may contain the terminal codes of other programs.
    return "".join(sign if sign.isprintable() or sign == "\n" else "�" for sign in text)
