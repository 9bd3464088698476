"""Lock a device for one daemon. The kernel drops the lock when its process ends."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from eatnas_daemon.devices.model import LockOwner, printable
from eatnas_db.errors import ConflictError
from eatnas_db.file_lock import is_locked, try_lock

# Not tempfile's choice: TMPDIR may be a folder of one user's own, where another's daemon would not look.
LOCKS: Final = Path("/tmp")  # noqa: S108


LOOKS: Final = 20


LOOK_SECONDS: Final = 0.01


class Hold:
    """This daemon's lock on a device, until it is released or the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def refresh(self) -> None:
        """Keep away those who tidy the temporary folder."""
        os.utime(self._descriptor)

    def release(self) -> None:
        """Give the device back."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def lock_file(uuid: str, folder: Path = LOCKS) -> Path:
    """Where a device's lock lies."""
    return folder / f"eatnas-db-device-{uuid}.lock"


def hold(uuid: str, folder: Path = LOCKS) -> Hold | None:
    """Take a device, or None when somebody else holds it. Raises `ConflictError` where its lock cannot be used."""
    path = lock_file(uuid, folder)
    for _ in range(LOOKS):
        try:
            descriptor = _open(path)
        except OSError as error:
            raise ConflictError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            if not try_lock(descriptor):
                # Perhaps somebody only looks who holds it, which takes a moment's lock.
                time.sleep(LOOK_SECONDS)
            elif path.stat().st_ino == os.fstat(descriptor).st_ino:
                _sign(descriptor)
                return Hold(descriptor)
        except FileNotFoundError:
            pass  # tidied away between two steps
        os.close(descriptor)
    return None


def holder_of(uuid: str, folder: Path = LOCKS) -> LockOwner | None:
    """The daemon that holds a device, if one does."""
    path = lock_file(uuid, folder)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        return LockOwner(trouble=f"{path} cannot be opened: {error.strerror}")
    try:
        return _signature(os.pread(descriptor, 4096, 0)) if is_locked(descriptor) else None
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    # Never O_CREAT on a file that is there: the kernel refuses it for another user's in a sticky folder.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            with suppress(FileExistsError):
                descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(descriptor, 0o666)  # whatever the umask: other users' daemons lock it too
                return descriptor
            continue
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "not a plain file", str(path))


def _sign(descriptor: int) -> None:
    text = json.dumps({"user": psutil.Process().username(), "pid": os.getpid()})
    with suppress(OSError):  # a full disk costs the name, not the lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _signature(content: bytes) -> LockOwner:
    with suppress(ValueError):
        signed: Any = json.loads(content)
        if isinstance(signed, dict) and isinstance(signed.get("pid"), int):
            return LockOwner(printable(str(signed.get("user")))[:64], signed["pid"])
    return LockOwner()
