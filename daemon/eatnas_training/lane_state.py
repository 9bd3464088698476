"""Keep the state of torch separate for each lane of a process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


class LaneState:
    """Keeps the number of torch's threads and the current CUDA stream of each lane. torch itself keeps only one number
    and one stream for the thread that all lanes share.
    """

    def __init__(self, device: str, lanes: int) -> None:
        self._threads = [torch.get_num_threads()] * lanes
        self._streams = [None if device == "cpu" else _new_stream(device) for _ in range(lanes)]

    @contextlib.contextmanager
    def __call__(self, lane: int) -> Iterator[None]:
        """Restore the state of a lane. At the end of the context, store the lane's new state."""
        if torch.get_num_threads() != self._threads[lane]:
            torch.set_num_threads(self._threads[lane])
        with torch.cuda.stream(self._streams[lane]):
            yield
        self._threads[lane] = torch.get_num_threads()


def _new_stream(device: str) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
