"""Hosts and their devices in the record: who trains, what it trains on, and which device is left alone by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, insert, select, update

from eatnas_db.database.dialects import insert_or_ignore
from eatnas_db.schema.hosts import device, host, worker


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """A device as its host's daemon sees it; `waits` says why no worker may start there."""

    uuid: str
    kind: str
    name: str
    waits: str | None = None
    used_bytes: int | None = None
    total_bytes: int | None = None


def cpu_uuid(host_name: str) -> str:
    """What stands for a UUID of a host's processor."""
    return f"cpu:{host_name}"


def register_host(connection: Connection, name: str, now: float) -> int:
    """The row of a host, made where it is missing."""
    connection.execute(insert_or_ignore(host).values(name=name, seen_at=now))
    seen = update(host).where(host.c.name == name).values(seen_at=now)
    return int(connection.execute(seen.returning(host.c.id)).scalar_one())


_NEW_DEVICE: Final = insert_or_ignore(device)
_DEVICE: Final = select(device.c.id, device.c.host_id).where(device.c.uuid == bindparam("of"))


def register_device(connection: Connection, host_id: int, uuid: str, kind: str, name: str) -> int:
    """The row of a device, made where it is missing. One that was moved to another host belongs to that."""
    connection.execute(_NEW_DEVICE, {"host_id": host_id, "uuid": uuid, "kind": kind, "name": name})
    row = connection.execute(_DEVICE, {"of": uuid}).one()
    if row.host_id != host_id:
        connection.execute(update(device).where(device.c.id == row.id).values(host_id=host_id))
    return int(row.id)


def record_worker_start(connection: Connection, device_id: int, slot: int, pid: int, now: float) -> int:
    """The row of a new worker process."""
    started = insert(worker).values(device_id=device_id, slot=slot, pid=pid, started_at=now)
    return int(connection.execute(started.returning(worker.c.id)).scalar_one())


def record_worker_end(connection: Connection, worker_id: int, why: str, now: float) -> None:
    """A worker process is gone."""
    connection.execute(update(worker).where(worker.c.id == worker_id).values(ended_at=now, ending=why))


def record_lost_workers(connection: Connection, host_id: int, why: str, now: float) -> None:
    """A host's workers are gone, as far as can be seen; one that was only frozen still writes their end itself."""
    of_host = worker.c.device_id.in_(select(device.c.id).where(device.c.host_id == host_id))
    connection.execute(update(worker).where(of_host, worker.c.ended_at.is_(None)).values(ended_at=now, ending=why))


def touch_host(connection: Connection, host_id: int, now: float) -> None:
    """A host's daemon is there."""
    connection.execute(update(host).where(host.c.id == host_id).values(seen_at=now))


def record_device_reports(connection: Connection, host_id: int, standings: Iterable[DeviceReport], now: float) -> None:
    """Write down how a host's devices stand."""
    for one in standings:
        device_id = register_device(connection, host_id, one.uuid, one.kind, one.name)
        seen: dict[str, Any] = {"waits": one.waits, "used_bytes": one.used_bytes, "total_bytes": one.total_bytes}
        connection.execute(update(device).where(device.c.id == device_id).values(seen_at=now, name=one.name, **seen))


def list_device_uuids(connection: Connection) -> tuple[str, ...]:
    """Every device of every host."""
    return tuple(connection.execute(select(device.c.uuid).order_by(device.c.id)).scalars())


def list_paused_devices(connection: Connection, host_id: int) -> frozenset[str]:
    """The UUIDs of a host's devices that are left alone by hand."""
    paused = select(device.c.uuid).where(device.c.host_id == host_id, device.c.paused_at.is_not(None))
    return frozenset(connection.execute(paused).scalars())


def set_device_paused(connection: Connection, uuid: str, paused_at: float | None) -> bool:
    """Leave a device alone, or no longer. Whether that changes anything."""
    is_so = device.c.paused_at.is_(None) if paused_at is None else device.c.paused_at.is_not(None)
    changed = update(device).where(device.c.uuid == uuid, ~is_so).values(paused_at=paused_at)
    return connection.execute(changed.returning(device.c.id)).first() is not None
