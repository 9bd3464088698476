"""Checkpoint files: whole on disk under their name, or not there. Torch is imported where it is used."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eatnas_db.domain.messages import Assign, Checkpointed


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is whole on disk: its SHA-256 in hexadecimal digits, and its size in bytes."""

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
    return Checkpointed(assign.candidate, assign.attempt, str(done.path), done.digest, done.bytes, epoch, batch)


def write(path: Path, content: bytes) -> Written:
    """Write `content` so that a crash at any moment leaves the whole file or none under `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return Written(path, hashlib.sha256(content).hexdigest(), len(content))


def read(path: Path, digest: str | None = None) -> bytes:
    """A checkpoint's bytes. Raises `ValueError` if they differ from `digest`, `OSError` if there are none."""
    content = path.read_bytes()
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path} is damaged: its SHA-256 is not {digest}")
    return content


def pack(state: Mapping[str, Any]) -> bytes:
    """Tensors and plain values as bytes."""
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def unpack(content: bytes, device: str = "cpu") -> dict[str, Any]:
    """What `pack` was given, its tensors on `device`. Raises `ValueError` on anything else."""
    import torch

    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        raise ValueError(f"not a checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"not a checkpoint: it holds {type(state).__name__}")
    return state


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
