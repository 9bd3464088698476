"""What a search took of the machines, how much of the time they were at it, and why they were not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, case, func, select

from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt

AROUND: Final = "a candidate in hand, but outside its steps: loading, building, checkpoints"
OTHERS: Final = "training for other searches"
PAUSED: Final = "the search was paused"
WAITED: Final = "a worker waited for a candidate"
NOT_YET: Final = "no worker yet"
NO_WORKER: Final = "no worker: {ending}"


@dataclass(frozen=True, slots=True)
class SlotUtilisation:
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
class IdleTime:
    """Seconds of the search's wall time that a slot was not inside steps of it, and why; `share` of the wall time."""

    host: str
    slot: int
    device: str
    cause: str
    seconds: float
    share: float


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
    slots: tuple[SlotUtilisation, ...]
    idle: tuple[IdleTime, ...]


class _Span(NamedTuple):
    start: float
    end: float

    def within(self, start: float, end: float) -> float:
        """Seconds that lie in both."""
        return max(0.0, min(self.end, end) - max(self.start, start))


@dataclass(slots=True)
class _Worker:
    """A worker process and what it did in the search's time, in seconds."""

    place: tuple[str, int, str]
    life: _Span
    ending: str | None
    attempts: int = 0
    device_seconds: float = 0.0
    busy: float = 0.0
    others: float = 0.0


def get_utilisation(connection: Connection, search_id: int, now: float) -> Utilisation:
    """The time of one search; attempts that still run count up to `now`."""
    row = connection.execute(select(search).where(search.c.id == search_id)).one()
    own = connection.execute(_by_worker(search_id, now)).all()
    whole = _Span(min(one.begun for one in own), max(one.ended for one in own)) if own else _Span(0.0, 0.0)
    wall = whole.end - whole.start
    workers = _workers(connection, [one.worker_id for one in own], now)
    for one in own:
        found = workers[one.worker_id]
        found.attempts, found.device_seconds, found.busy = one.attempts, one.device_seconds, one.busy
    for other in _meanwhile(connection, search_id, whole):
        for one in connection.execute(_by_worker(other, now, whole)):
            if one.worker_id in workers:
                workers[one.worker_id].others += one.busy
    pauses = list(_pauses(connection, search_id, whole))
    slots: list[SlotUtilisation] = []
    idle: list[IdleTime] = []
    in_order = sorted(workers.values(), key=lambda one: (one.place, one.life))
    for place, group in groupby(in_order, lambda one: one.place):
        staff = tuple(group)
        slots.append(_slot(place, staff, wall))
        causes = _causes(staff, whole, pauses)
        idle += [
            IdleTime(place[0], place[1], place[2], cause, seconds, seconds / wall)
            for cause, seconds in causes
            if seconds > 0
        ]
    return Utilisation(
        search=row.name,
        wall_seconds=wall,
        device_seconds=row.device_seconds,
        scored=row.scored,
        candidates_per_hour=3600 * row.scored / wall if wall > 0 else None,
        busy=sum(slot.busy for slot in slots) / len(slots) if slots and wall > 0 else None,
        training=sum(slot.training for slot in slots) / len(slots) if slots and wall > 0 else None,
        slots=tuple(slots),
        idle=tuple(idle),
    )


def _slot(place: tuple[str, int, str], staff: Sequence[_Worker], wall: float) -> SlotUtilisation:
    busy, trained = sum(one.busy for one in staff), sum(one.device_seconds for one in staff)
    return SlotUtilisation(
        *place,
        attempts=sum(one.attempts for one in staff),
        device_seconds=trained,
        busy_seconds=busy,
        # A clock that was set back would give a slot more than all the time there was.
        busy=min(1.0, busy / wall) if wall > 0 else 0.0,
        training=min(1.0, trained / wall) if wall > 0 else 0.0,
    )


def _causes(staff: Sequence[_Worker], whole: _Span, pauses: Sequence[_Span]) -> list[tuple[str, float]]:
    """Why a slot was not inside steps of the search, with the seconds of each reason."""
    causes: dict[str, float] = defaultdict(float)
    left, why = whole.start, NOT_YET
    for one in staff:
        causes[why] += whole.within(left, one.life.start)
        free = max(0.0, one.life.within(*whole) - one.busy - one.others)
        paused = min(free, sum(one.life.within(*pause) for pause in pauses))
        causes[AROUND] += max(0.0, one.busy - one.device_seconds)
        causes[OTHERS] += one.others
        causes[PAUSED] += paused
        causes[WAITED] += free - paused
        left, why = max(left, one.life.end), NO_WORKER.format(ending=one.ending or "it was lost")
    causes[why] += whole.within(left, whole.end)
    return sorted(causes.items(), key=lambda one: -one[1])


def _by_worker(search_id: int, now: float, within: _Span | None = None) -> Any:
    """What the workers did for a search: all of it, or that within a span of time."""
    begun: ColumnElement[float] = attempt.c.started_at
    ended: ColumnElement[float] = func.coalesce(attempt.c.ended_at, now)
    if within is not None:
        begun = case((begun < within.start, within.start), else_=begun)
        ended = case((ended > within.end, within.end), else_=ended)
    query = (
        select(
            attempt.c.worker_id,
            func.count().label("attempts"),
            func.sum(attempt.c.device_seconds).label("device_seconds"),
            func.sum(ended - begun).label("busy"),
            func.min(begun).label("begun"),
            func.max(ended).label("ended"),
        )
        .select_from(candidate)
        .join(attempt, attempt.c.candidate_id == candidate.c.id)
        .where(candidate.c.search_id == search_id)
        .group_by(attempt.c.worker_id)
    )
    return query if within is None else query.where(ended > begun)


def _workers(connection: Connection, served: Sequence[int], now: float) -> dict[int, _Worker]:
    """The workers that served, and all others of their slots."""
    if not served:
        return {}
    query = (
        select(
            worker.c.id,
            worker.c.device_id,
            host.c.name.label("host"),
            worker.c.slot,
            device.c.name.label("device"),
            worker.c.started_at,
            worker.c.ended_at,
            worker.c.ending,
        )
        .join(device, device.c.id == worker.c.device_id)
        .join(host, host.c.id == device.c.host_id)
    )
    rows = connection.execute(query).all()
    known = frozenset(served)
    places = {(row.device_id, row.slot) for row in rows if row.id in known}
    return {
        row.id: _Worker(
            (row.host, row.slot, row.device),
            _Span(row.started_at, now if row.ended_at is None else row.ended_at),
            row.ending,
        )
        for row in rows
        if (row.device_id, row.slot) in places
    }


def _meanwhile(connection: Connection, search_id: int, whole: _Span) -> Sequence[int]:
    """The searches that were there in this time, too."""
    query = select(search.c.id).where(
        search.c.id != search_id,
        search.c.created_at < whole.end,
        search.c.finished_at.is_(None) | (search.c.finished_at > whole.start),
    )
    return connection.execute(query).scalars().all()


def _pauses(connection: Connection, search_id: int, whole: _Span) -> Iterator[_Span]:
    # A sum, so that no planner goes by the index of the search's events, most of which are its candidates'.
    query = (
        select(event.c.kind, event.c.at)
        .where(event.c.candidate_id.is_(None), event.c.search_id + 0 == search_id)
        .where(event.c.kind.in_(("paused", "resumed")))
        .order_by(event.c.id)
    )
    since = None
    for kind, at in connection.execute(query):
        if kind == "paused":
            since = at if since is None else since
        elif since is not None:
            yield _Span(max(since, whole.start), min(at, whole.end))
            since = None
    if since is not None:
        yield _Span(max(since, whole.start), whole.end)
