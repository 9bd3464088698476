"""Reserve a device for one daemon by locking a file. The kernel releases the lock when the process ends."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from eatnas_daemon.devices.model import LockOwner, printable
from eatnas_daemon.lock_holder import current_process, parse_holder
from eatnas_db.errors import ConflictError
from eatnas_db.file_lock import is_locked, try_lock

# Do not use `tempfile.gettempdir()`: TMPDIR may be private to one user, but the daemons of all users share the locks.
LOCK_FOLDER: Final = Path("/tmp")  # noqa: S108
LOCK_ATTEMPTS: Final = 20
LOCK_RETRY_SECONDS: Final = 0.01


class DeviceLock:
    """The lock of this process on one device."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def refresh(self) -> None:
        """Update the timestamps of the lock file, so that cleaners of temporary files keep it."""
        os.utime(self._descriptor)

    def release(self) -> None:
        """Unlock the device."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


class DeviceLocks:
    """The locks of one daemon, by the UUID of the device."""

    def __init__(self, folder: Path = LOCK_FOLDER, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._monotonic = folder, monotonic
        self._locks: dict[str, tuple[DeviceLock, float]] = {}
        """Each lock, and the time at which it was acquired."""

    @property
    def held(self) -> frozenset[str]:
        """Return the UUIDs of the devices that this daemon has locked."""
        return frozenset(self._locks)

    def acquire(self, uuid: str) -> bool:
        """Lock a device. Return False if another process holds the lock.

        Raises `ConflictError` if the lock file cannot be used.
        """
        if uuid in self._locks:
            return True
        lock = acquire_lock(uuid, self._folder)
        if lock is not None:
            self._locks[uuid] = lock, self._monotonic()
        return lock is not None

    def release(self, uuid: str) -> float:
        """Unlock a device. Return the seconds for which the device was locked."""
        lock, acquired_at = self._locks.pop(uuid)
        lock.release()
        return self._monotonic() - acquired_at

    def refresh(self) -> None:
        """Refresh every lock file."""
        for lock, _ in self._locks.values():
            lock.refresh()

    def release_all(self) -> None:
        """Unlock every device."""
        for uuid in self.held:
            self.release(uuid)


def lock_path(uuid: str, folder: Path = LOCK_FOLDER) -> Path:
    """Return the path of a device's lock file."""
    return folder / f"eatnas-db-device-{uuid}.lock"


def acquire_lock(uuid: str, folder: Path = LOCK_FOLDER) -> DeviceLock | None:
    """Lock a device, or return None if another process holds the lock.

    Raises `ConflictError` if the lock file cannot be used.
    """
    path = lock_path(uuid, folder)
    for _ in range(LOCK_ATTEMPTS):
        try:
            descriptor = _open(path)
        except OSError as error:
            raise ConflictError(f"cannot open lock file {path}: {error.strerror}") from None
        try:
            if not try_lock(descriptor):
                # `find_lock_owner` in another process may hold a shared lock for a short time.
                time.sleep(LOCK_RETRY_SECONDS)
            elif path.stat().st_ino == os.fstat(descriptor).st_ino:
                _write_owner(descriptor)
                return DeviceLock(descriptor)
        except FileNotFoundError:
            pass  # another process removed the file after this process opened it
        os.close(descriptor)
    return None


def find_lock_owner(uuid: str, folder: Path = LOCK_FOLDER) -> LockOwner | None:
    """Return the daemon that has locked a device, or None if the device is not locked."""
    path = lock_path(uuid, folder)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        return LockOwner(error=f"cannot open lock file {path}: {error.strerror}")
    try:
        return _parse_owner(os.pread(descriptor, 4096, 0)) if is_locked(descriptor) else None
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    # Open an existing file without O_CREAT: in a sticky folder, the kernel refuses O_CREAT for another user's file.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            with suppress(FileExistsError):
                descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(descriptor, 0o666)  # overrides the umask, because daemons of other users lock the file too
                return descriptor
            continue
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "not a regular file", str(path))


def _write_owner(descriptor: int) -> None:
    text = json.dumps({"user": psutil.Process().username(), **current_process().to_json()})
    with suppress(OSError):  # on a full disk, the lock works even without the owner's name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _parse_owner(content: bytes) -> LockOwner:
    with suppress(ValueError):
        owner: Any = json.loads(content)
        process = parse_holder(owner)
        if process is not None:
            return LockOwner(printable(str(owner.get("user")))[:64], process)
    return LockOwner()
