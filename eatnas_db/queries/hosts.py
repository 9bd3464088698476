"""Query the hosts and devices that a record knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select

from eatnas_db.database.locks import list_connected_hosts
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.trainings import lease

HOST_LOST: Final = "the host gave no sign of life"
"""How the workers of a host ended that was found dead."""


@dataclass(frozen=True, slots=True)
class RecordedDevice:
    """What trains. `waits`: why no worker may start there, as its host's daemon saw it last (at `seen_at`)."""

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
    """A machine that has worked on the record; `alive`: its daemon is connected to the server now.

    `lost`: it is gone without having stopped. What it trained then waits, or has gone on elsewhere.
    """

    name: str
    alive: bool
    lost: bool
    devices: int
    in_training: int
    seen_at: float


def list_hosts(connection: Connection) -> tuple[RecordedHost, ...]:
    """Every host of a record on a server, by name."""
    alive = list_connected_hosts(connection)
    devices = select(func.count()).where(device.c.host_id == host.c.id).scalar_subquery()
    held = select(func.count()).where(lease.c.host_id == host.c.id).scalar_subquery()
    of_host = select(worker.c.id).where(
        worker.c.device_id.in_(select(device.c.id).where(device.c.host_id == host.c.id).correlate(host))
    )
    # The last worker to begin; of one that has not ended, nobody knows how it went.
    last = of_host.order_by(worker.c.id.desc()).limit(1).correlate(host).scalar_subquery()
    ending = select(func.coalesce(worker.c.ending, HOST_LOST)).where(worker.c.id == last).scalar_subquery()
    query = select(host.c.id, host.c.name, devices, held, host.c.seen_at, ending.label("ending"))
    return tuple(
        RecordedHost(name, host_id in alive, host_id not in alive and ending == HOST_LOST, *rest)
        for host_id, name, *rest, ending in connection.execute(query.order_by(host.c.name))
    )


def list_devices(connection: Connection) -> tuple[RecordedDevice, ...]:
    """Every device of every host, by host."""
    columns = (device.c[field] for field in RecordedDevice.__slots__ if field != "host")
    query = select(host.c.name.label("host"), *columns).join(host, host.c.id == device.c.host_id)
    return tuple(RecordedDevice(*row) for row in connection.execute(query.order_by(host.c.name, device.c.id)))
