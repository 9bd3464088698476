"""Query the hosts and devices that a record knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select

from eatnas_db.database.locks import list_connected_hosts
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.trainings import lease

HOST_LOST: Final = "the host gave no sign of life"
"""The recorded ending of a worker whose host disappeared."""


@dataclass(frozen=True, slots=True)
class RecordedDevice:
    """The state of a device that its host's daemon reported at `seen_at`.

    `waits` is the reason why no worker may start on the device; None if a worker may start. `paused_at` is the time at
    which a user paused the device. Times are Unix times in seconds.
    """

    host: str
    uuid: str
    kind: str
    name: str
    paused_at: float | None
    waits: str | None
    used_bytes: int | None
    total_bytes: int | None
    seen_at: float | None


@dataclass(frozen=True, slots=True)
class RecordedHost:
    """A host that has worked on the record.

    `alive` is true if its daemon is connected to the server, and `lost` is true if the daemon disappeared without a
    regular stop. `in_training` is the number of candidates that the host is training.
    """

    name: str
    alive: bool
    lost: bool
    devices: int
    in_training: int
    seen_at: float


def list_hosts(connection: Connection) -> tuple[RecordedHost, ...]:
    """Return the hosts of a record on a PostgreSQL server, sorted by name."""
    connected = list_connected_hosts(connection)
    devices = select(func.count()).where(device.c.host_id == host.c.id).scalar_subquery()
    leases = select(func.count()).where(lease.c.host_id == host.c.id).scalar_subquery()
    devices_of_host = select(device.c.id).where(device.c.host_id == host.c.id).correlate(host)
    newest_worker = (
        select(worker.c.id)
        .where(worker.c.device_id.in_(devices_of_host))
        .order_by(worker.c.id.desc())
        .limit(1)
        .correlate(host)
        .scalar_subquery()
    )
    # A worker without a recorded ending counts as lost.
    ending = select(func.coalesce(worker.c.ending, HOST_LOST)).where(worker.c.id == newest_worker).scalar_subquery()
    query = select(
        host.c.id,
        host.c.name,
        host.c.seen_at,
        devices.label("devices"),
        leases.label("in_training"),
        ending.label("ending"),
    )
    return tuple(
        RecordedHost(
            name=row.name,
            alive=row.id in connected,
            lost=row.id not in connected and row.ending == HOST_LOST,
            devices=row.devices,
            in_training=row.in_training,
            seen_at=row.seen_at,
        )
        for row in connection.execute(query.order_by(host.c.name))
    )


def list_devices(connection: Connection) -> tuple[RecordedDevice, ...]:
    """Return the devices of all hosts, sorted by host."""
    query = (
        select(
            host.c.name,
            device.c.uuid,
            device.c.kind,
            device.c.name,
            device.c.paused_at,
            device.c.waits,
            device.c.used_bytes,
            device.c.total_bytes,
            device.c.seen_at,
        )
        .join(host, host.c.id == device.c.host_id)
        .order_by(host.c.name, device.c.id)
    )
    return tuple(RecordedDevice(*row) for row in connection.execute(query))
