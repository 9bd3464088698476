"""Check that the paths in the record are relative to the artifacts folder and stay below it.

Other programs can write to a database on a server, and a backup may come from another machine. So every path is checked
here before its file is read or deleted. This module imports only the standard library.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath


def is_artifact_path(stored: str) -> bool:
    """Return whether a path is relative and its text does not lead out of the artifacts folder."""
    parts = PurePosixPath(stored).parts
    return bool(parts) and not stored.startswith("/") and ".." not in parts and "\0" not in stored


def find_artifact(artifacts: Path, stored: str) -> Path | None:
    """Return the path of the file that the record stores as `stored`, relative to `artifacts`. The file need not exist.

    Return None if the text of the path or a symbolic link leads out of the folder. `artifacts` itself may be a link.
    """
    if not is_artifact_path(stored):
        return None
    try:
        root = artifacts.resolve()
        target = (root / stored).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a name that no file can have
        return None
    return artifacts / stored if target != root and target.is_relative_to(root) else None
