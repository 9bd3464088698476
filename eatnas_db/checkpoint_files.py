"""Checkpoint files: folders, names and format.

This module imports only the standard library, because workers import it.

A checkpoint lies at `checkpoints/<search>/c<candidate>-a<attempt>-e<epoch>-b<batch>.ckpt` in the artifacts folder. The
last 32 bytes of the file are the SHA-256 of the rest, so a file can be verified without its row in the database. The
name of a file that is still being written has a leading dot and a random suffix.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eatnas_db.atomic_files import atomic_write, final_name

DIGEST_BYTES: Final = 32
KEPT_CHECKPOINTS: Final = 2
"""The number of checkpoints that are kept: the newest, and an older one in case the newest is damaged."""
_CHUNK_BYTES: Final = 1 << 20
_NUMBER: Final = "(0|[1-9][0-9]{0,17})"
"""A number of at most 18 digits, which fits into an integer column."""
_NAME: Final = re.compile(rf"c{_NUMBER}-a{_NUMBER}-e{_NUMBER}-b{_NUMBER}\.ckpt")


def checkpoint_folder(search_id: int) -> str:
    """Return the folder of a search's checkpoints, relative to the artifacts folder, with a trailing slash."""
    return f"checkpoints/{search_id}/"


@dataclass(frozen=True, slots=True)
class CheckpointName:
    """The parts of a file name. Training resumes at `batch` of `epoch`, both counted from 0."""

    candidate_id: int
    attempt: int
    epoch: int
    batch: int

    def __str__(self) -> str:
        return f"c{self.candidate_id}-a{self.attempt}-e{self.epoch}-b{self.batch}.ckpt"

    @classmethod
    def parse(cls, name: str) -> CheckpointName | None:
        """Parse the name of a complete checkpoint file; return None for any other file."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        return cls(*map(int, match.groups()))


def list_checkpoint_names(folder: Path, candidate_id: int) -> list[CheckpointName]:
    """List a candidate's complete checkpoint files in `folder`, the most advanced first; on ties, the later attempt
    first.

    Symbolic links are left out, because they could lead out of the folder.
    """
    files = (path for path in folder.glob(f"c{candidate_id}-a*.ckpt") if not path.is_symlink())
    names = (CheckpointName.parse(path.name) for path in files)
    return sorted(
        (name for name in names if name is not None),
        key=lambda name: (name.epoch, name.batch, name.attempt),
        reverse=True,
    )


def list_partial_files(folder: Path, candidate_id: int, attempt: int) -> Iterator[Path]:
    """Yield the files that an attempt was writing when its worker was killed."""
    for file in folder.glob(f".c{candidate_id}-a{attempt}-*"):
        if owner_of_file(file.name) is not None:
            yield file


def owner_of_file(name: str) -> tuple[int, bool] | None:
    """Return the candidate that a checkpoint file belongs to and whether the file is partial; None for other files."""
    replaced = final_name(name)
    checkpoint = CheckpointName.parse(name if replaced is None else replaced)
    return None if checkpoint is None else (checkpoint.candidate_id, replaced is not None)


@dataclass(frozen=True, slots=True)
class WrittenCheckpoint:
    """A checkpoint file on disk: the SHA-256 of its content in hexadecimal digits, and its size in bytes."""

    path: Path
    digest: str
    bytes: int


def write_checkpoint(path: Path, content: bytes) -> WrittenCheckpoint:
    """Write `content` atomically: after a crash at any moment, `path` is either whole or absent.

    Raises `OSError`, for example when the disk is full.
    """
    # Do not create the home itself: if a user has deleted it, a file in a new home would belong to no record.
    for folder in (path.parents[2], path.parents[1], path.parent):
        folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(content)
    with atomic_write(path, mode=0o600) as file:
        file.write(content)
        file.write(digest.digest())
    return WrittenCheckpoint(path, digest.hexdigest(), len(content) + DIGEST_BYTES)


def read_checkpoint(path: Path) -> bytes:
    """Return the content of a checkpoint file. Raises `ValueError` if it is damaged, `OSError` if it is missing."""
    whole = path.read_bytes()
    content, digest = whole[:-DIGEST_BYTES], whole[-DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(f"{path.name} is damaged: its content does not match its SHA-256")
    return content


def has_digest(path: Path, digest: str) -> bool:
    """Return whether a file is undamaged and its content has this SHA-256. Read the file in chunks."""
    remaining = path.stat().st_size - DIGEST_BYTES
    content_hash = hashlib.sha256()
    with path.open("rb") as file:
        while remaining > 0 and (chunk := file.read(min(remaining, _CHUNK_BYTES))):
            content_hash.update(chunk)
            remaining -= len(chunk)
        return content_hash.hexdigest() == digest and file.read() == content_hash.digest()
