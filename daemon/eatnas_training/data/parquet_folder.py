"""Read folders of Parquet files with columns of images and labels, as Hugging Face's `datasets` writes them."""

from __future__ import annotations

import bisect
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from eatnas_db.datasets import ImageDataset
from eatnas_db.errors import DataError
from eatnas_training.error_messages import first_line

PARTS: Final = {True: ("train",), False: ("test", "validation", "valid", "val")}
"""The names of the training part, and of the test part in the order of preference."""
IMAGE_COLUMNS: Final = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
LABEL_COLUMNS: Final = ("label", "labels", "class", "cls", "target", "fine_label")


class ParquetImages:
    """The images and labels of several Parquet files, in the order of the files. Keeps one row group in memory at a
    time.
    """

    def __init__(self, files: Sequence[Path], image: str, label: str, label_numbers: Mapping[str, int]) -> None:
        self._files = [_open_file(file) for file in files]
        self._columns, self._label_numbers = (image, label), label_numbers
        self._groups = [(file, group) for file in self._files for group in range(file.num_row_groups)]
        self._starts = [0]
        for file, group in self._groups:
            self._starts.append(self._starts[-1] + file.metadata.row_group(group).num_rows)
        self._loaded: tuple[int, list[Any], list[Any]] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        group = bisect.bisect_right(self._starts, index) - 1
        if self._loaded is None or self._loaded[0] != group:
            file, number = self._groups[group]
            table = file.read_row_group(number, columns=list(self._columns))
            self._loaded = (group, *(table.column(column).to_pylist() for column in self._columns))
        _, images, labels = self._loaded
        row = index - self._starts[group]
        label = labels[row]
        return _decode(images[row]), self._label_numbers.get(label, label) if isinstance(label, str) else label


def open_parquet(path: str, root: Path, options: Mapping[str, Any], *, train: bool) -> ImageDataset | None:
    """Open one part of a folder; return None if it has no test part.

    `options` may name the columns as `image` and `label`, and set `channels`. Raises `DataError`, or an exception from
    pyarrow.
    """
    if not path:
        raise DataError("data.name is hf: without a path; write hf:PATH, for example hf:/data/beans")
    folder = root / os.path.expanduser(path)  # noqa: PTH111 - `Path` raises for an unknown user
    if unknown := sorted(set(options) - {"image", "label", "channels"}):
        raise DataError(f"hf:{path} has no option {unknown[0]!r} (known: image, label, channels)")
    training = _find_files(folder, train=True)
    files = training if train else _find_files(folder, train=False)
    if not files:
        return None
    schema = _open_file(training[0]).schema_arrow
    features = _features(schema)
    image = _find_column(folder, schema, features, options.get("image"), "Image", IMAGE_COLUMNS, "image")
    label = _find_column(folder, schema, features, options.get("label"), "ClassLabel", LABEL_COLUMNS, "label")
    names = _class_names(training, schema, features, label)
    numbers = {name: number for number, name in enumerate(names or ())}
    return ImageDataset(ParquetImages(files, image, label, numbers), names, options.get("channels"))


def _find_files(folder: Path, *, train: bool) -> list[Path]:
    """Return the files of a part, sorted by path. If no path names a part, all files belong to the training part."""
    if not folder.is_dir():
        raise DataError(f"hf: {folder} is not a folder; correct the path in data.name")
    found = sorted(file.relative_to(folder) for file in folder.rglob("*.parquet"))
    found = [file for file in found if not any(part.startswith(".") for part in file.parts)]
    if not found:
        raise DataError(f"hf: no .parquet file is in {folder}; store the data set there with to_parquet")
    by_part = {part: [file for file in found if _is_of(file, part)] for part in (*PARTS[True], *PARTS[False])}
    if not any(by_part.values()):
        return [folder / file for file in found] if train else []
    files = next((by_part[part] for part in PARTS[train] if by_part[part]), [])
    if train and not files:
        raise DataError(f"hf: no training part is in {folder}; name its files train-….parquet")
    folders = sorted({file.parent.as_posix() for file in files})
    if len(folders) > 1:
        raise DataError(
            f"hf: several folders in {folder} contain files of the same part: {', '.join(folders)}; write one "
            f"of them into data.name, for example hf:{folder / folders[0]}"
        )
    return [folder / file for file in files]


def _is_of(file: Path, part: str) -> bool:
    return re.match(rf"{part}([-_.]|$)", file.stem) is not None or part in file.parts[:-1]


def _open_file(file: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"hf: needs pyarrow ({first_line(error)}); pip install 'eatnas-db[hf]'") from error
    try:
        return ParquetFile(file)
    except ArrowException as error:
        raise DataError(f"{file} is not a readable Parquet file: {first_line(error)}") from error


def _features(schema: Any) -> dict[str, Any]:
    """Return the features that Hugging Face stores with the schema: a type for each column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _find_column(
    folder: Path,
    schema: Any,
    features: Mapping[str, Any],
    wanted: str | None,
    feature: str,
    known: Sequence[str],
    noun: str,
) -> str:
    columns: list[str] = list(schema.names)
    if wanted is not None:
        found = [column for column in columns if column == wanted]
    else:
        typed = [
            column
            for column in columns
            if isinstance(features.get(column), dict) and features[column].get("_type") == feature
        ]
        found = typed or [column for column in columns if column.lower() in known]
    if len(found) == 1:
        return found[0]
    problem = f"several columns for the {noun}" if found else f"no column for the {noun}"
    raise DataError(f"hf: {folder} has {problem} among {', '.join(columns)}; set data.options: {{{noun}: COLUMN}}")


def _class_names(
    training: Sequence[Path], schema: Any, features: Mapping[str, Any], label: str
) -> tuple[str, ...] | None:
    """Return the names of the classes, from the stored feature or from the sorted labels of the training part."""
    feature = features.get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, list) and names:
        return tuple(map(str, names))
    from pyarrow import types

    kind = schema.field(label).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if not (types.is_string(kind) or types.is_large_string(kind)):
        return None
    texts = {text for file in training for text in _open_file(file).read(columns=[label]).column(label).to_pylist()}
    return tuple(sorted(text for text in texts if text is not None))


def _decode(cell: Any) -> Image.Image:
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise ValueError("the cell does not contain an encoded image; store the data set with its images embedded")
    return Image.open(io.BytesIO(content))
