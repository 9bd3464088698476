"""The file system below an SQLite file: whether its locks can be trusted, and whether it is full."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from eatnas_db.errors import RecordError

MIN_FREE_BYTES: Final = 1_000_000


NETWORK_FILE_SYSTEMS: Final = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "glusterfs",
        "afs",
        "fuse.sshfs",
        "fuse.glusterfs",
    ]
)


def refuse_network_file_system(file: Path, mounts: Path) -> None:
    """Raise `RecordError` where SQLite's locks cannot be trusted."""
    kind = _file_system(file, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise RecordError(
            f"{file} lies on a network file system ({kind}), where SQLite loses data; "
            "put the record on a local disk with --db sqlite:////local/path/eatnas.db"
        )


def is_disk_full(file: Path) -> bool:
    """Whether the disk of a file has less than `MIN_FREE_BYTES` left."""
    try:
        return shutil.disk_usage(file.parent).free < MIN_FREE_BYTES
    except OSError:
        return False


def _file_system(file: Path, mounts: Path) -> str | None:
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    target = file.absolute()
    best: tuple[int, str | None] = (0, None)
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        # The kernel writes spaces in mount points as \040.
        mount = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point))
        if target.is_relative_to(mount) and len(mount.parts) >= best[0]:
            best = (len(mount.parts), kind)
    return best[1]
