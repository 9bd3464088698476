"""The file system of a record is found through links and mounts, and is refused if several machines share it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from eatnas_db.database.engine import open_record
from eatnas_db.database.filesystem import is_shared, refuse_network_file_system
from eatnas_db.database.mounts import find_file_system
from eatnas_db.errors import RecordError
from eatnas_db.urls import sqlite_url

MOUNTINFO = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
36 27 0:40 / /net/my\040share rw,relatime shared:1 master:2 - nfs4 server:/x rw,vers=4.2
37 27 0:41 / /mnt rw - autofs systemd-1 rw
38 37 0:42 / /mnt rw - nfs server:/y rw
39 27 0:43 / /win rw,noatime - 9p drvfs rw,aname=drvfs;path=C:
40 27 0:44 / /vm rw - virtiofs shared rw
41 27 0:45 / /remote rw - fuse.sshfs me@host: rw
42 27 0:46 / /usb rw - fuseblk /dev/sdb1 rw
43 27 0:47 / /vault rw - fuse.gocryptfs /cipher rw
44 27 0:48 /sub /vm/local rw - ext4 /dev/vdb rw
45 27 0:49 / /hidden/below rw - nfs server:/z rw
46 27 0:50 / /hidden rw - xfs /dev/vdc rw
47 27 0:51 / /box rw - vboxsf shared rw
48 27 0:52 / /plain rw - fuse program rw
"""


@pytest.fixture
def mounts(tmp_path):
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTINFO.lstrip())
    return file


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("/home/eatnas.db", "ext4"),
        ("/net/my share/deep/eatnas.db", "nfs4"),
        ("/net/my share of it/eatnas.db", "ext4"),
        ("/net/../net/my share/eatnas.db", "nfs4"),
        ("/home/../mnt/eatnas.db", "nfs"),
        ("/win/eatnas.db", "9p"),
        ("/vm/eatnas.db", "virtiofs"),
        ("/vm/local/eatnas.db", "ext4"),
        ("/hidden/below/eatnas.db", "xfs"),
        ("/remote/eatnas.db", "fuse.sshfs"),
    ],
)
def test_file_system_is_found_in_mountinfo(mounts, file, kind):
    assert find_file_system(Path(file), mounts) == kind


@pytest.mark.parametrize("folder", ["net/my share", "mnt", "win", "vm", "remote", "box", "plain"])
def test_shared_file_system_is_refused(mounts, folder):
    with pytest.raises(RecordError, match=r"network file system .*local disk with --db"):
        refuse_network_file_system(Path("/", folder, "eatnas.db"), mounts)


@pytest.mark.parametrize("folder", ["home", "usb", "vault", "vm/local", "hidden/below"])
def test_local_file_system_is_accepted(mounts, folder):
    refuse_network_file_system(Path("/", folder, "eatnas.db"), mounts)


def test_list_of_mounts_without_ids_is_read_too(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda / ext4 rw 0 0\nserver:/x /net/my\\040share nfs4 rw 0 0\n")
    with pytest.raises(RecordError, match=r"network file system \(nfs4\)"):
        refuse_network_file_system(Path("/net/my share/eatnas.db"), mounts)
    refuse_network_file_system(Path("/home/eatnas.db"), mounts)


@pytest.mark.parametrize("content", ["", "garbage\n", "1 2 3\n - \n", "27 1 254:0 / / rw - \n"])
def test_unreadable_list_of_mounts_refuses_nothing(tmp_path, content):
    mounts = tmp_path / "mounts"
    mounts.write_text(content)
    assert find_file_system(Path("/home/eatnas.db"), mounts) is None
    assert find_file_system(Path("/home/eatnas.db"), tmp_path / "none") is None


@pytest.mark.parametrize("kind", ["file", "folder", "dots"])
def test_link_to_a_shared_file_system_is_refused(tmp_path, kind):
    share, local = tmp_path / "share", tmp_path / "local"
    share.mkdir()
    local.mkdir()
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"27 1 8:1 / / rw - ext4 /dev/sda rw\n30 27 0:99 / {share} rw - fuse.rclone x: rw\n")
    if kind == "file":
        file = local / "eatnas.db"
        file.symlink_to(share / "eatnas.db")
    elif kind == "folder":
        (local / "door").symlink_to(share)
        file = local / "door" / "eatnas.db"
    else:
        (local / "door").symlink_to(share / "below")
        (share / "below").mkdir()
        file = local / "door" / ".." / "eatnas.db"
    with pytest.raises(RecordError, match=r"network file system \(fuse.rclone\)"):
        open_record(sqlite_url(file), mounts)


def test_loop_of_links_is_no_crash(tmp_path, mounts):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert find_file_system(loop / "eatnas.db", mounts) == "ext4"


@pytest.mark.skipif(shutil.which("findmnt") is None, reason="needs findmnt")
@pytest.mark.parametrize("folder", ["/proc", "/dev/shm", "."])
def test_real_mounts_agree_with_findmnt(tmp_path, folder):
    path = tmp_path / folder
    command = ["findmnt", "--json", "--target", str(path), "--output", "FSTYPE"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert find_file_system(path) == json.loads(done.stdout)["filesystems"][-1]["fstype"]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "fuseblk", "fuse.fuse-overlayfs"])
def test_local_types_are_known(kind):
    assert not is_shared(kind)


@pytest.mark.parametrize(
    "kind", ["nfs4", "cifs", "9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "fuse", "fuse.s3fs", "fuse.vmhgfs-fuse"]
)
def test_shared_types_are_known(kind):
    assert is_shared(kind)
