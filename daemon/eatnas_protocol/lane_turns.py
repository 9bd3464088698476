"""The file by which a process with lanes shows whose turn it is.

The supervisor can read it even after the process has died.
"""

from __future__ import annotations

import os
from typing import Final

NOBODY: Final = -1
_BYTES: Final = 8


def encode_turn(lane: int) -> bytes:
    """Return the content of the file while it is the turn of the lane with this number."""
    return lane.to_bytes(_BYTES, "little", signed=True)


def read_turn(turn_fd: int) -> int:
    """Return the number of the lane whose turn it is, or was when the process died. Between turns, return `NOBODY`."""
    content = os.pread(turn_fd, _BYTES, 0)
    return int.from_bytes(content, "little", signed=True) if len(content) == _BYTES else NOBODY
