"""Check the file system under an SQLite file: whether it is a network file system, and whether it is full."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from eatnas_db.errors import RecordError

MIN_FREE_BYTES: Final = 1_000_000
"""A disk with less free space counts as full."""

NETWORK_FILE_SYSTEMS: Final = frozenset(
    [
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs"),
        *("fuse.sshfs", "fuse.glusterfs"),
    ]
)


def refuse_network_file_system(file: Path, mounts: Path) -> None:
    """Raise `RecordError` if `file` is on a network file system. `mounts` has the format of `/proc/mounts`."""
    kind = _file_system(file, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise RecordError(
            f"{file} is on a network file system ({kind}), where SQLite can lose data; "
            "put the record on a local disk with --db sqlite:////local/path/eatnas.db"
        )


def is_disk_full(file: Path) -> bool:
    """Return whether the disk of a file has less than `MIN_FREE_BYTES` of free space."""
    try:
        return shutil.disk_usage(file.parent).free < MIN_FREE_BYTES
    except OSError:
        return False


def _file_system(file: Path, mounts: Path) -> str | None:
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    target = file.absolute()
    depth, kind = 0, None
    for line in lines:
        _, mount_point, mount_kind, *_ = line.split(" ")
        # The kernel writes a space in a mount point as \040.
        mount = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount_point))
        if target.is_relative_to(mount) and len(mount.parts) >= depth:
            depth, kind = len(mount.parts), mount_kind
    return kind
