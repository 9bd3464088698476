"""Check the path of a file before a command writes it."""

from __future__ import annotations

from pathlib import Path

from eatnas_db.errors import ConflictError


def require_free(file: Path, *, force: bool) -> None:
    """Raise `ConflictError` if `file` cannot be written, or exists and `force` is false."""
    if file.is_dir():
        raise ConflictError(f"{file} is a folder; give a file name")
    if not file.parent.is_dir():
        raise ConflictError(f"folder {file.parent} does not exist; create it first")
    if file.exists() and not force:
        raise ConflictError(f"{file} already exists; --force overwrites it")
