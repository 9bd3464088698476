"""Read a CSV file of image paths and labels, and return an `ImageFolder`."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from eatnas_db.domain.data_source import split_source
from eatnas_db.errors import DataError
from eatnas_training.data.image_folder import ImageFolder
from eatnas_training.error_messages import first_line, unreadable

TRAIN: Final = "train"
TEST: Final = "test"
COLUMNS: Final = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image"),
    "label": ("label", "class", "target"),
    "split": ("split",),
}
"""The known names of each column, in lower case. The column for the split is optional."""


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    name: str
    label: str
    part: str


def csv_file(data: Mapping[str, Any]) -> Path:
    """Return the path of the CSV file of a `DataSpec`. Raises `DataError` if `data.name` has no path."""
    path = split_source(str(data["name"]))[1]
    if not path:
        raise DataError("data.name is csv: without a path; write csv:PATH, for example csv:/data/labels.csv")
    top, file = (os.path.expanduser(one) for one in (str(data.get("root") or "."), path))  # noqa: PTH111
    return Path(top, file)


def list_csv(data: Mapping[str, Any], *, train: bool) -> ImageFolder:
    """List the images of one part of a `DataSpec`. The labels of the training part define the classes.

    Relative paths start at the folder of the CSV file. Raises `DataError`, which names the line.
    """
    file = csv_file(data)
    rows = list(_read_rows(file, data.get("options") or {}))
    _require_single_files(file, rows)
    class_names = _sort_labels({row.label for row in rows if row.part == TRAIN})
    if len(class_names) < 2:
        found = f"only the label {class_names[0]!r}" if class_names else "no images"
        raise DataError(f"{file} has {found} for training, and a search needs two classes; add rows with other labels")
    part = TRAIN if train else TEST
    chosen = [row for row in rows if row.part == part]
    if not chosen:
        raise DataError(f"{file} has no test part: no row has {TEST!r} in a column named split")
    numbers = {label: number for number, label in enumerate(class_names)}
    for row in chosen:
        if row.label not in numbers:
            raise DataError(
                f"{file}, line {row.line}: no training image has the label {row.label!r}; correct the label"
            )
    labels = np.array([numbers[row.label] for row in chosen], np.int64)
    return ImageFolder(file.resolve().parent, [row.name for row in chosen], labels, class_names, (), (file.name,))


def has_test_rows(data: Mapping[str, Any]) -> bool:
    """Return whether a CSV file lists a test part. Raises `DataError`."""
    return any(row.part == TEST for row in _read_rows(csv_file(data), data.get("options") or {}))


def _read_rows(file: Path, options: Mapping[str, Any]) -> Iterator[_Row]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as content:
            reader = csv.reader(content, strict=True)
            header = [name.strip() for name in next(reader, [])]
            places = {column: _find_column(file, header, column, options) for column in COLUMNS}
            top = file.resolve().parent
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield _parse_row(file, top, reader.line_num, cells, places)
    except OSError as error:
        raise unreadable(error, file) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not a text file in UTF-8; save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{file} is not a CSV file: {first_line(error)}") from error


def _find_column(file: Path, header: Sequence[str], column: str, options: Mapping[str, Any]) -> int | None:
    wanted = options.get(column)
    known = COLUMNS[column] if wanted is None else (str(wanted).lower(),)
    found = [place for place, name in enumerate(header) if name.lower() in known]
    if len(found) == 1:
        return found[0]
    if not found and column == "split" and wanted is None:
        return None
    problem = "several columns" if found else "no column"
    raise DataError(
        f"{file} has {problem} for the {column} among {', '.join(header) or 'nothing'}; name the columns path and "
        f"label in its first line, or set data.options: {{{column}: COLUMN}}"
    )


def _parse_row(file: Path, top: Path, line: int, cells: list[str], places: Mapping[str, int | None]) -> _Row:
    values = {
        column: cells[place].strip() if place is not None and place < len(cells) else ""
        for column, place in places.items()
    }
    for column in ("path", "label"):
        if not values[column]:
            raise DataError(f"{file}, line {line} has no {column}; add it, or delete the line")
        if "\0" in values[column]:
            raise DataError(f"{file}, line {line}: the {column} contains a NUL character; delete it")
    part = values["split"].lower() or TRAIN
    if part not in (TRAIN, TEST):
        raise DataError(f"{file}, line {line}: the split is {values['split']!r}; write {TRAIN} or {TEST}")
    name = values["path"]
    if os.path.isabs(name):  # noqa: PTH117 - a `Path` for each of a million rows takes seconds
        name = os.path.relpath(name, top)
    return _Row(line, os.path.normpath(name), values["label"], part)


def _require_single_files(file: Path, rows: Sequence[_Row]) -> None:
    """Raise `DataError` if a file is listed twice, since it could become both a training and a validation image."""
    first: dict[str, int] = {}
    for row in rows:
        if (line := first.setdefault(row.name, row.line)) != row.line:
            raise DataError(f"{file}, line {row.line}: {row.name} is already in line {line}; delete one of the lines")


def _sort_labels(labels: set[str]) -> tuple[str, ...]:
    """Sort labels by value if all are numbers, otherwise by name."""
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))
