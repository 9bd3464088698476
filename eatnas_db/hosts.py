"""Record hosts, their devices and their workers."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, bindparam, insert, select, update

from eatnas_db.database.dialects import insert_or_ignore, is_postgresql
from eatnas_db.errors import OwnershipError
from eatnas_db.schema.hosts import MAX_DEVICE_NAME, device, host, worker


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """The state of a device as its host's daemon reports it; `waits` is the reason why no worker may start on the
    device; None if a worker may start.
    """

    uuid: str
    kind: str
    name: str
    waits: str | None = None
    used_bytes: int | None = None
    total_bytes: int | None = None


def cpu_uuid(host_name: str) -> str:
    """Return the identifier of a host's CPU, which has no UUID."""
    return f"cpu:{host_name}"


def register_host(connection: Connection, name: str, now: float) -> int:
    """Insert a host if it is new, and return its id."""
    connection.execute(insert_or_ignore(host).values(name=name, seen_at=now))
    touched = update(host).where(host.c.name == name).values(seen_at=now)
    return int(connection.execute(touched.returning(host.c.id)).scalar_one())


def find_host(connection: Connection, name: str, now: float) -> int:
    """Insert a host if it is new, and return its id. Does not lock the row of a known host."""
    connection.execute(insert_or_ignore(host).values(name=name, seen_at=now))
    return int(connection.execute(select(host.c.id).where(host.c.name == name)).scalar_one())


def claim_host(connection: Connection, host_id: int) -> str:
    """Make the caller the owner of a host, and return the owner's token. The caller must hold the lock of the host."""
    token = uuid.uuid4().hex
    connection.execute(update(host).where(host.c.id == host_id).values(owner=token))
    return token


_SELECT_OWNER: Final = (
    select(host.c.owner)
    .where(host.c.id == bindparam("of_host"))
    .with_for_update(read=True)  # locks the row until the commit
)


def require_owner(connection: Connection, host_id: int, token: str) -> None:
    """Raise `OwnershipError` if another daemon has claimed the host.

    Until the transaction ends, no other daemon can claim the host.

    On SQLite, the daemon's lock file excludes a second daemon.
    """
    if is_postgresql(connection) and connection.execute(_SELECT_OWNER, {"of_host": host_id}).scalar() != token:
        raise OwnershipError(HOST_TAKEN)


HOST_TAKEN: Final = (
    "another daemon was started under this host's name and has taken over this daemon's trainings; stop the other "
    "daemon, or set "
    "EATNAS_HOST to another name, and start again"
)


_INSERT_DEVICE: Final = insert_or_ignore(device)
_SELECT_DEVICE: Final = select(device.c.id, device.c.host_id).where(device.c.uuid == bindparam("of"))


def register_device(connection: Connection, host_id: int, uuid: str, kind: str, name: str) -> int:
    """Insert a device if it is new, and return its id. If the device belonged to another host, it is reassigned to this
    host.
    """
    connection.execute(_INSERT_DEVICE, {"host_id": host_id, "uuid": uuid, "kind": kind, "name": name[:MAX_DEVICE_NAME]})
    row = connection.execute(_SELECT_DEVICE, {"of": uuid}).one()
    if row.host_id != host_id:
        connection.execute(update(device).where(device.c.id == row.id).values(host_id=host_id))
    return int(row.id)


def record_worker_start(connection: Connection, device_id: int, slot: int, pid: int, now: float) -> int:
    """Insert a worker process and return its id."""
    started = insert(worker).values(device_id=device_id, slot=slot, pid=pid, started_at=now)
    return int(connection.execute(started.returning(worker.c.id)).scalar_one())


def record_worker_end(connection: Connection, worker_id: int, reason: str, now: float) -> None:
    """Record the end of a worker process."""
    connection.execute(update(worker).where(worker.c.id == worker_id).values(ended_at=now, ending=reason))


def record_lost_workers(connection: Connection, host_id: int, reason: str, now: float) -> None:
    """Record the end of all workers of a host. If a supervisor was only frozen, the supervisor overwrites these rows
    later.
    """
    is_lost = (
        worker.c.device_id.in_(select(device.c.id).where(device.c.host_id == host_id)),
        worker.c.ended_at.is_(None),
    )
    connection.execute(update(worker).where(*is_lost).values(ended_at=now, ending=reason))


def touch_host(connection: Connection, host_id: int, now: float) -> None:
    """Record that a host's daemon is alive at `now`."""
    connection.execute(update(host).where(host.c.id == host_id).values(seen_at=now))


def record_device_reports(connection: Connection, host_id: int, reports: Iterable[DeviceReport], now: float) -> None:
    """Record the current state of a host's devices."""
    for report in reports:
        device_id = register_device(connection, host_id, report.uuid, report.kind, report.name)
        reported = update(device).values(
            name=report.name[:MAX_DEVICE_NAME],
            waits=report.waits,
            used_bytes=report.used_bytes,
            total_bytes=report.total_bytes,
            seen_at=now,
        )
        connection.execute(reported.where(device.c.id == device_id))


def list_host_ids(connection: Connection) -> tuple[int, ...]:
    """Return the ids of all hosts."""
    return tuple(connection.execute(select(host.c.id).order_by(host.c.id)).scalars())


def list_device_uuids(connection: Connection) -> tuple[str, ...]:
    """Return the UUIDs of the devices of all hosts."""
    return tuple(connection.execute(select(device.c.uuid).order_by(device.c.id)).scalars())


def list_paused_devices(connection: Connection, host_id: int) -> frozenset[str]:
    """Return the UUIDs of a host's devices that a user has paused."""
    paused = select(device.c.uuid).where(device.c.host_id == host_id, device.c.paused_at.is_not(None))
    return frozenset(connection.execute(paused).scalars())


def set_device_paused(connection: Connection, uuid: str, paused_at: float | None) -> bool:
    """Pause a device, or resume it if `paused_at` is None. Return whether the state of the device has changed."""
    is_paused = device.c.paused_at.is_not(None)
    changes = is_paused if paused_at is None else ~is_paused
    changed = update(device).where(device.c.uuid == uuid, changes).values(paused_at=paused_at)
    return connection.execute(changed.returning(device.c.id)).first() is not None
