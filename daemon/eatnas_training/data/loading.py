"""The data of an assignment on its device, resident or streamed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from eatnas_db.errors import DataError
from eatnas_training.data.batches import LoadedData
from eatnas_training.data.resident import load_resident
from eatnas_training.data.streamed_files import list_streamed_files
from eatnas_training.data.streaming import open_streamed

THREADS_VARIABLE: Final = "EATNAS_DECODE_THREADS"
"""The environment variable for the number of decoding threads in each worker. It does not change results."""


def load_data(data: Mapping[str, Any], device: str, *, final_model: bool = False) -> LoadedData:
    """Load a `DataSpec` for a device; stream it if its images do not fit into memory. Raises `DataError`.

    The test images are read for a final model only. The data loaded last stay in memory for the next call.
    """
    return _load(json.dumps(dict(data), sort_keys=True), device, _decode_threads(), final_model)


@lru_cache(maxsize=1)
def _load(data_json: str, device: str, threads: int, final_model: bool) -> LoadedData:
    data = json.loads(data_json)
    files = list_streamed_files(data, final_model=final_model)
    if files is None:
        return load_resident(data, device, final_model=final_model)
    return open_streamed(files, device, threads)


def _decode_threads() -> int:
    text = os.environ.get(THREADS_VARIABLE) or str(max(1, min(8, (os.cpu_count() or 1) // 2)))
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"{THREADS_VARIABLE} is {text!r}; set it to a number of threads, at least 1")
    return int(text)
