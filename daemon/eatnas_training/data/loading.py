"""Load the data of an assignment onto its device, resident or streamed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

from eatnas_db.errors import DataError
from eatnas_training.data.batches import LoadedData
from eatnas_training.data.file_sets import is_file_set
from eatnas_training.data.folder_content import Steps, count_available_cores, run_to_end
from eatnas_training.data.resident import load_resident
from eatnas_training.data.streamed_files import forget_listing, listing_steps
from eatnas_training.data.streaming import open_streamed
from eatnas_training.error_messages import unreadable

THREADS_VARIABLE: Final = "EATNAS_DECODE_THREADS"
"""The environment variable for the number of decoding threads in each worker. The number does not change results."""


def load_data(data: Mapping[str, Any], device: str, *, final_model: bool = False) -> LoadedData:
    """Load a `DataSpec` for a device. Stream its images if they do not fit into memory. Raises `DataError`.

    The test images are read only for a final model. The data that was loaded last stays in memory for the next call.
    """
    return run_to_end(loading_steps(data, device, final_model=final_model))


def loading_steps(data: Mapping[str, Any], device: str, *, final_model: bool = False) -> Steps[LoadedData]:
    """Do the same as `load_data`, and yield the progress."""
    request = json.dumps(dict(data), sort_keys=True), device, _decode_threads(), final_model
    if request not in _loaded_last:
        _loaded_last.clear()  # free the memory before the next data set needs it
        _loaded_last[request] = yield from _load(data, device, final_model)
    return _loaded_last[request]


def forget_loaded_data(data: Mapping[str, Any]) -> None:
    """Make the next call of `load_data` look at all files of a `DataSpec` again."""
    _loaded_last.clear()
    if is_file_set(str(data["name"])):
        forget_listing(data)


_loaded_last: dict[tuple[str, str, int, bool], LoadedData] = {}


def _load(data: Mapping[str, Any], device: str, final_model: bool) -> Steps[LoadedData]:
    try:
        files = yield from listing_steps(data, final_model=final_model, reuse=True)
        if files is None:
            return (yield from load_resident(data, device, final_model=final_model))
        return open_streamed(files, device, _decode_threads())
    except OSError as error:  # for example, the folder above the images is not accessible
        raise unreadable(error, data.get("root")) from error


def _decode_threads() -> int:
    text = os.environ.get(THREADS_VARIABLE) or str(max(1, count_available_cores() // 2))
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"{THREADS_VARIABLE} is {text!r}; set it to a number of threads, at least 1")
    return int(text)
