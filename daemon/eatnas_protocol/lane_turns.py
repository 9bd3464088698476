"""Encode and read the file in which a process with several lanes records which lane has its turn.

The supervisor can read the file even after the process has died.
"""

from __future__ import annotations

import os
from typing import Final

NOBODY: Final = -1
_BYTES: Final = 8


def encode_turn(lane: int) -> bytes:
    """Return the content of the file during the turn of the lane with this number."""
    return lane.to_bytes(_BYTES, "little", signed=True)


def read_turn(turn_fd: int) -> int:
    """Return the number of the lane that has its turn, or that had it when the process died. Return `NOBODY` between
    turns.
    """
    content = os.pread(turn_fd, _BYTES, 0)
    return int.from_bytes(content, "little", signed=True) if len(content) == _BYTES else NOBODY
