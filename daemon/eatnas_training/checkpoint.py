"""Save checkpoints of a training and resume from them; `eatnas_db.checkpoint_files` knows the names and the format.

Torch is imported inside the functions that use it, because the simulated worker imports this module too.
"""

from __future__ import annotations

import errno
import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from eatnas_db.checkpoint_files import (
    DIGEST_BYTES,
    CheckpointName,
    list_checkpoint_names,
    read_checkpoint,
    write_checkpoint,
)
from eatnas_protocol.messages import Assign, Checkpointed, Phase, Resumed
from eatnas_training.worker_protocol import StopRequest

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No room on the disk, in the quota, or under the limit on a file's size."""
FULL_SECONDS: Final = 1.0


def save(assign: Assign, epoch: int, batch: int, content: bytes) -> Checkpointed:
    """Write an assignment's checkpoint and give its report. Raises `OSError`, a full disk among them."""
    name = str(CheckpointName(assign.candidate, assign.attempt, epoch, batch))
    written = write_checkpoint(Path(assign.checkpoint_folder) / name, content)
    return Checkpointed(
        candidate=assign.candidate,
        attempt=assign.attempt,
        path=name,
        digest=written.digest,
        bytes=written.bytes,
        epoch=epoch,
        batch=batch,
    )


def save_patiently(
    assign: Assign, epoch: int, batch: int, content: bytes, wanted: Callable[[], StopRequest]
) -> Iterator[Checkpointed | Phase]:
    """Save; while the disk is full say so and try again, until there is room or a stop is wanted."""
    while True:
        try:
            yield save(assign, epoch, batch, content)
            return
        except OSError as error:
            if error.errno not in FULL:
                raise
        yield Phase(assign.candidate, assign.attempt, "disk full")
        if wanted() >= StopRequest.RELEASE:
            return
        time.sleep(FULL_SECONDS)


def resume(assign: Assign, restore: Callable[[bytes], None]) -> Resumed | None:
    """Hand the newest usable checkpoint of an assignment's candidate to `restore`; None where there are no files.

    `restore` raises `ValueError`, `KeyError` or `TypeError` when the content is not for it; it may be called again
    with an older one. What else it raises says nothing about the files, and they stay.
    """
    folder = Path(assign.checkpoint_folder)
    damaged: dict[str, str] = {}
    for name in list_checkpoint_names(folder, assign.candidate):
        try:
            content = read_checkpoint(folder / str(name))
            restore(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            damaged[str(name)] = str(error)
            continue
        return Resumed(
            candidate=assign.candidate,
            attempt=assign.attempt,
            path=str(name),
            digest=hashlib.sha256(content).hexdigest(),
            bytes=len(content) + DIGEST_BYTES,
            epoch=name.epoch,
            batch=name.batch,
            damaged=damaged,
        )
    if not damaged:
        return None
    return Resumed(
        candidate=assign.candidate,
        attempt=assign.attempt,
        path=None,
        digest="",
        bytes=0,
        epoch=0,
        batch=0,
        damaged=damaged,
    )


def pack(state: Mapping[str, Any]) -> bytes:
    """Tensors and plain values as bytes."""
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def unpack(content: bytes) -> dict[str, Any]:
    """What `pack` was given, its tensors in the processor's memory. Raises `ValueError` on anything else."""
    import torch

    from eatnas_training.failures import is_out_of_memory

    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        if is_out_of_memory(error):
            raise
        raise ValueError(f"not a checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"not a checkpoint: it holds {type(state).__name__}")
    return state
