"""What a search took of the machines, and how much of the time they were at it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from eatnas_db.schema import attempt, candidate, device, host, search, worker


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot of a host: `busy` is the share of the search's wall time in which its workers had a candidate,
    `training` that in which they were inside training and validation steps.
    """

    host: str
    slot: int
    device: str
    attempts: int
    device_seconds: float
    busy_seconds: float
    busy: float
    training: float


@dataclass(frozen=True, slots=True)
class Utilisation:
    """A search's time. Wall seconds run from its first attempt to its last, pauses included."""

    search: str
    wall_seconds: float
    device_seconds: float
    scored: int
    candidates_per_hour: float | None
    busy: float | None
    training: float | None
    slots: tuple[Slot, ...]


def get_utilisation(connection: Connection, search_id: int, now: float) -> Utilisation:
    """The time of one search; attempts that still run count up to `now`."""
    row = connection.execute(select(search).where(search.c.id == search_id)).one()
    end = func.coalesce(attempt.c.ended_at, now)
    query = (
        select(
            host.c.name.label("host"),
            worker.c.slot,
            device.c.name.label("device"),
            func.count().label("attempts"),
            func.sum(attempt.c.device_seconds).label("device_seconds"),
            func.sum(end - attempt.c.started_at).label("busy_seconds"),
            func.min(attempt.c.started_at).label("begun"),
            func.max(end).label("ended"),
        )
        .select_from(candidate)
        .join(attempt, attempt.c.candidate_id == candidate.c.id)
        .join(worker, worker.c.id == attempt.c.worker_id)
        .join(device, device.c.id == worker.c.device_id)
        .join(host, host.c.id == device.c.host_id)
        .where(candidate.c.search_id == search_id)
        .group_by(host.c.name, worker.c.slot, device.c.name)
        .order_by(host.c.name, worker.c.slot, device.c.name)
    )
    rows = connection.execute(query).all()
    wall = max(one.ended for one in rows) - min(one.begun for one in rows) if rows else 0.0
    slots = tuple(
        Slot(
            host=one.host,
            slot=one.slot,
            device=one.device,
            attempts=one.attempts,
            device_seconds=one.device_seconds,
            busy_seconds=one.busy_seconds,
            # A clock that was set back would give a slot more than all the time there was.
            busy=min(1.0, one.busy_seconds / wall) if wall > 0 else 0.0,
            training=min(1.0, one.device_seconds / wall) if wall > 0 else 0.0,
        )
        for one in rows
    )
    return Utilisation(
        search=row.name,
        wall_seconds=wall,
        device_seconds=row.device_seconds,
        scored=row.scored,
        candidates_per_hour=3600 * row.scored / wall if wall > 0 else None,
        busy=sum(slot.busy for slot in slots) / len(slots) if slots and wall > 0 else None,
        training=sum(slot.training for slot in slots) / len(slots) if slots and wall > 0 else None,
        slots=slots,
    )
