"""Read a CSV file of architectures and scores that were measured elsewhere."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.integers import MAX_BIGINT
from eatnas_db.domain.objective import MAX_SCORE, VALIDATION_ACCURACY
from eatnas_db.domain.space import Space
from eatnas_db.errors import DataError, InvalidArchitectureError
from eatnas_db.input_files import read_input

COLUMNS: Final = ("code", "score", "seed", "epochs")
REQUIRED: Final = COLUMNS[:2]
DELIMITERS: Final = ",;\t"
PROGRESS_LINES: Final = 1000
MAX_EPOCHS: Final = 100_000
MAX_MEGABYTES: Final = 256
MAX_SHOWN: Final = 200
"""The maximum number of characters of a value in a message."""
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


ProgressCallback = Callable[[str, int, int], None]
"""A function that is called with a step of the import, the number of finished lines, and the number of all lines."""


class ScoreRow(NamedTuple):
    """A row of the file: the architecture as the space writes it, and its score."""

    code: str
    score: float
    seed: int
    epochs: int | None


@dataclass(frozen=True, slots=True)
class ScoreFile:
    """The rows of a file, its SHA-256, and the names of its ignored columns."""

    rows: Sequence[ScoreRow]
    sha256: str
    ignored: tuple[str, ...]


def read_score_file(file: Path) -> bytes:
    """Return the content of a file. Raises `DataError`."""
    return read_input(file, most_megabytes=MAX_MEGABYTES)


def digest_content(content: bytes) -> str:
    """Return the SHA-256 that identifies the content of a file, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def parse_scores(
    file: Path, content: bytes, space: Space, *, metric: str, on_progress: ProgressCallback = lambda *_: None
) -> ScoreFile:
    """Parse a whole file. Raises `DataError`, which names the line, the column, the value and the allowed values.

    The first line names the columns: `code` and `score`, and optionally `seed` and `epochs`.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file} is not a text file in UTF-8; save it as CSV in UTF-8") from None
    total = max(text.count("\n"), 1)
    lines = _read_cells(file, text)
    header = next(lines, None)
    if header is None:
        raise DataError(f"{file} is empty; its first line names the columns {', '.join(COLUMNS)}")
    names = [name.strip().lower() for name in header.cells]
    places = _find_columns(file, names)
    rows: list[ScoreRow] = []
    lines_of_networks: dict[str, int] = {}
    for line in lines:
        if len(line.cells) != len(names):
            raise DataError(
                f"{file}, line {line.number}: expected {len(names)} values, one for each column of the first line, but "
                f"got {len(line.cells)}; write a decimal point in numbers, and quote a value that contains the "
                "delimiter"
            )
        values = {column: line.cells[place].strip() for column, place in places.items()}
        row, digest = _parse_row(_Place(file, line.number), values, space, metric)
        first = lines_of_networks.setdefault(digest, line.number)
        if first != line.number:
            raise DataError(
                f"{file}, line {line.number}, column code: {_show(values['code'])} describes the same network as line "
                f"{first}; keep one line for each network, for example with the mean of its scores"
            )
        rows.append(row)
        if len(rows) % PROGRESS_LINES == 0:
            on_progress("lines read", len(rows), max(total, len(rows) + 1))
    if not rows:
        raise DataError(f"{file} has no line below the names of the columns; add a line for each architecture")
    on_progress("lines read", len(rows), len(rows))
    ignored = tuple(name for name in names if name not in COLUMNS)
    return ScoreFile(rows, digest_content(content), ignored)


class _Line(NamedTuple):
    number: int
    cells: list[str]


class _Place(NamedTuple):
    file: Path
    line: int

    def error(self, column: str, text: str) -> DataError:
        return DataError(f"{self.file}, line {self.line}, column {column}: {text}")


def _read_cells(file: Path, text: str) -> Iterator[_Line]:
    """Yield the cells of the lines that are not empty. The first line decides the delimiter."""
    first = text.lstrip("\r\n ").split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield _Line(reader.line_num, cells)
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: not CSV ({error}); correct the quotes") from None


def _find_columns(file: Path, names: Sequence[str]) -> dict[str, int]:
    """Return the index of each known column. Raises `DataError` if a column is missing or occurs twice."""
    for column in COLUMNS:
        count = names.count(column)
        if count > 1 or (count == 0 and column in REQUIRED):
            problem = f"names the column {column} {count} times" if count else f"has no column {column}"
            raise DataError(
                f"{file}, line 1 {problem}: it has {_show(', '.join(names))}; the columns are code and score, "
                f"optionally seed and epochs, separated by a comma, a semicolon or a tab"
            )
    return {column: names.index(column) for column in COLUMNS if column in names}


def _parse_row(place: _Place, values: Mapping[str, str], space: Space, metric: str) -> tuple[ScoreRow, str]:
    """Return a row and the digest of its network."""
    for column in REQUIRED:
        if not values[column]:
            raise place.error(column, "no value; add it, or delete the line")
    score = _parse_score(place, values["score"], metric)
    seed = _parse_whole(place, "seed", values.get("seed", ""), 0, MAX_BIGINT)
    epochs = _parse_whole(place, "epochs", values.get("epochs", ""), 1, MAX_EPOCHS)
    architecture = _parse_code(place, values["code"], space)
    return ScoreRow(str(architecture), score, seed or 0, epochs), space.propose(architecture).digest


def _parse_code(place: _Place, text: str, space: Space) -> Architecture:
    try:
        architecture = space.parse(text)
        space.macro.require_block_count(architecture)
    except InvalidArchitectureError as error:
        raise place.error(
            "code", f"{_show(text)} is not an architecture of space {space.macro.name}: {_shorten(str(error))}"
        ) from None
    return architecture


def _parse_score(place: _Place, text: str, metric: str) -> float:
    if not _NUMBER.fullmatch(text) or not math.isfinite(value := float(text)):
        raise place.error("score", f"{_show(text)} is not a finite number such as 0.93; correct it")
    if abs(value) > MAX_SCORE:
        problem = f"{_show(text)} is over {MAX_SCORE:g}, so sums of scores would overflow; scale the scores"
        raise place.error("score", problem)
    if metric == VALIDATION_ACCURACY and not 0 <= value <= 1:
        raise place.error(
            "score",
            f"{_show(text)} is not a valid {metric}: it must be from 0 to 1; divide percentages by "
            "100, or use --metric",
        )
    return value


def _parse_whole(place: _Place, column: str, text: str, least: int, most: int) -> int | None:
    if not text:
        return None
    is_whole = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_BIGINT))
    if not is_whole or not least <= int(text) <= most:
        raise place.error(column, f"{_show(text)} is not a whole number from {least} to {most}; correct it")
    return int(text)


def _show(text: str) -> str:
    return repr(_shorten(text))


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
