"""Save checkpoints of a training and resume from them. `eatnas_db.checkpoint_files` defines the names and the format of
the files.

Torch is imported inside the functions that use it, because the simulated worker of the tests imports this module.
"""

from __future__ import annotations

import errno
import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from eatnas_db.checkpoint_files import (
    DIGEST_BYTES,
    KEPT_CHECKPOINTS,
    CheckpointName,
    list_checkpoint_names,
    read_checkpoint,
    write_checkpoint,
)
from eatnas_protocol.messages import DISK_FULL, Assign, Checkpointed, Phase, Resumed
from eatnas_training.worker_protocol import StopRequest

DISK_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The errors of a full disk, of an exhausted quota, and of a file that exceeds the process's limit for the size of
files.
"""
RETRY_SECONDS: Final = 1.0


def save(assign: Assign, epoch: int, batch: int, content: bytes) -> Checkpointed:
    """Write a checkpoint from which training resumes at `batch` of `epoch`.

    Raises `OSError`, for example on a full disk.
    """
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


def save_with_retries(
    assign: Assign, epoch: int, batch: int, content: bytes, stop_request: Callable[[], StopRequest]
) -> Iterator[Checkpointed | Phase]:
    """Save a checkpoint.

    While the disk is full, yield a phase and try again, until there is space or a stop is requested.
    """
    while True:
        try:
            yield save(assign, epoch, batch, content)
            return
        except OSError as error:
            if error.errno not in DISK_FULL_ERRNOS:
                raise
        yield Phase(assign.candidate, assign.attempt, DISK_FULL)
        if stop_request() is not StopRequest.NONE:
            return
        time.sleep(RETRY_SECONDS)


def resume(assign: Assign, restore: Callable[[bytes], None]) -> Resumed | None:
    """Pass the candidate's checkpoints to `restore`, most advanced first, until it accepts one.

    `restore` raises `ValueError`, `KeyError` or `TypeError` to refuse the content. Other exceptions propagate, because
    they do not prove that the file is damaged. Return None if there are no checkpoints. Checkpoints of attempts up to
    `begins_after` are removed, or ignored if the removal fails.
    """
    folder = Path(assign.checkpoint_folder)
    damaged: dict[str, str] = {}
    for name in list_checkpoint_names(folder, assign.candidate):
        # An ancestor is trained again as attempt 0, whose checkpoints must not be removed if `begins_after` is 0.
        if assign.begins_after and name.attempt <= assign.begins_after:
            with suppress(OSError):
                (folder / str(name)).unlink()
            continue
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


def remove_older(assign: Assign) -> None:
    """Remove all but the most advanced checkpoints of this attempt. Call this only for an attempt that is not in the
    record.

    For a recorded attempt, the supervisor removes older checkpoints.
    """
    folder = Path(assign.checkpoint_folder)
    names = [name for name in list_checkpoint_names(folder, assign.candidate) if name.attempt == assign.attempt]
    for name in names[KEPT_CHECKPOINTS:]:
        with suppress(OSError):
            (folder / str(name)).unlink()


def pack(state: Mapping[str, Any]) -> bytes:
    """Serialize tensors and plain values."""
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def unpack(content: bytes) -> dict[str, Any]:
    """Return the argument of `pack`, with all tensors on the CPU. Raises `ValueError` if the content is invalid."""
    import torch

    from eatnas_training.failures import is_out_of_memory

    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise any exception
        if is_out_of_memory(error):
            raise
        raise ValueError(f"not a checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"not a checkpoint: it holds {type(state).__name__}")
    return state
