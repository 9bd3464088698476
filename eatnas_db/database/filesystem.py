"""Check the file system under an SQLite file: whether other machines share it, and whether it is full."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from eatnas_db.database.mounts import MOUNTS, find_file_system
from eatnas_db.errors import RecordError

MIN_FREE_BYTES: Final = 1_000_000
"""A disk with less free space counts as full."""


SHARED_FILE_SYSTEMS: Final = frozenset(
    [
        # Network file systems.
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "smb2", "ncpfs", "afs", "kafs", "coda", "davfs", "webdav"),
        *("lustre", "gpfs", "beegfs", "ceph", "glusterfs", "pvfs2", "orangefs", "wekafs", "panfs", "quobyte"),
        # File systems on a disk that several machines share.
        *("gfs", "gfs2", "ocfs2", "acfs", "cvfs", "vxfs", "vmfs"),
        # Host folders that a virtual machine or a container shares.
        *("9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "hgfs", "drvfs", "fakeowner", "osxfs", "grpcfuse"),
        # File systems that a program serves without reporting the underlying file system.
        "fuse",
    ]
)
"""Types of file systems on which SQLite's locks or its shared memory do not reach every program that uses the file."""

LOCAL_FUSE: Final = frozenset(
    [
        *("fuse-overlayfs", "overlayfs", "unionfs", "mergerfs", "bindfs", "zfs", "ext2fs", "fuse-ext2", "fuse2fs"),
        *("ntfs", "ntfs-3g", "lowntfs-3g", "exfat", "exfat-fuse", "apfs", "btrfs"),
        *("encfs", "gocryptfs", "cryfs", "securefs", "cryptomator"),
    ]
)
"""Programs that serve local disks through FUSE. All other FUSE file systems, such as `fuse.sshfs`, count as shared."""


def refuse_network_file_system(file: Path, mounts: Path = MOUNTS) -> None:
    """Raise `RecordError` if other machines may use the file system of `file`. Follows links and `..`.

    `mounts` has the format of `/proc/self/mountinfo` or of `/proc/mounts`.
    """
    kind = find_file_system(file, mounts)
    if kind is not None and is_shared(kind):
        raise RecordError(
            f"{file} is on a shared or network file system ({kind}), where SQLite can lose data; "
            "put the record on a local disk with --db sqlite:////local/path/eatnas.db"
        )


def is_shared(kind: str) -> bool:
    """Return whether several machines may use a file system of this type at the same time."""
    family, _, program = kind.partition(".")
    if family == "fuse" and program:
        return program not in LOCAL_FUSE
    return family in SHARED_FILE_SYSTEMS


def is_disk_full(file: Path) -> bool:
    """Return whether the disk of a file has less than `MIN_FREE_BYTES` of free space."""
    try:
        return shutil.disk_usage(file.parent).free < MIN_FREE_BYTES
    except OSError:
        return False
