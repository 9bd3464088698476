"""Checkpoint files: whole on disk under their name, or not there; each ends in the SHA-256 of the rest.

So a file tells by itself whether it is whole, with or without its row in the record. Torch is imported where
it is used.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eatnas_db.atomic_files import atomic_write
from eatnas_protocol.messages import Assign, Checkpointed, Phase, Resumed
from eatnas_training.worker_protocol import StopRequest

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No room on the disk, in the quota, or under the limit on a file's size."""
FULL_SECONDS: Final = 1.0
DIGEST_BYTES: Final = 32
_NAME: Final = re.compile(r"c(?P<candidate>\d+)-a(?P<attempt>\d+)-e(?P<epoch>\d+)-b(?P<batch>\d+)\.ckpt")


@dataclass(frozen=True, slots=True)
class WrittenCheckpoint:
    """A file that is whole on disk: its content's SHA-256 in hexadecimal digits, and its size in bytes."""

    path: Path
    digest: str
    bytes: int


def file_name(candidate: int, attempt: int, epoch: int, batch: int) -> str:
    """The name of the checkpoint that goes on at (`epoch`, `batch`), both from 0."""
    return f"c{candidate}-a{attempt}-e{epoch}-b{batch}.ckpt"


def save(assign: Assign, epoch: int, batch: int, content: bytes) -> Checkpointed:
    """Write an assignment's checkpoint and give its report. Raises `OSError`, a full disk among them."""
    name = file_name(assign.candidate, assign.attempt, epoch, batch)
    done = write(Path(assign.checkpoint_folder) / name, content)
    return Checkpointed(assign.candidate, assign.attempt, name, done.digest, done.bytes, epoch, batch)


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
    damaged: dict[str, str] = {}
    found = [
        match
        for path in Path(assign.checkpoint_folder).glob(f"c{assign.candidate}-a*.ckpt")
        if (match := _NAME.fullmatch(path.name))
    ]
    for match in sorted(found, key=lambda m: (int(m["epoch"]), int(m["batch"]), int(m["attempt"])), reverse=True):
        path = Path(assign.checkpoint_folder) / match[0]
        try:
            content = read(path)
            restore(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            damaged[match[0]] = str(error)
            continue
        digest, size = hashlib.sha256(content).hexdigest(), len(content) + DIGEST_BYTES
        at = (int(match["epoch"]), int(match["batch"]))
        return Resumed(assign.candidate, assign.attempt, match[0], digest, size, *at, damaged)
    return Resumed(assign.candidate, assign.attempt, None, "", 0, 0, 0, damaged) if damaged else None


def write(path: Path, content: bytes) -> WrittenCheckpoint:
    """Write `content` so that a crash at any moment leaves the whole file or none under `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(content)
    with atomic_write(path, mode=0o600) as file:
        file.write(content)
        file.write(digest.digest())
    return WrittenCheckpoint(path, digest.hexdigest(), len(content) + DIGEST_BYTES)


def read(path: Path) -> bytes:
    """A checkpoint's content. Raises `ValueError` if it is not whole, `OSError` if it is not there."""
    whole = path.read_bytes()
    content, digest = whole[:-DIGEST_BYTES], whole[-DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(f"{path.name} is damaged: its content is not what its SHA-256 says")
    return content


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
