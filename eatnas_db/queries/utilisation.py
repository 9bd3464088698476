"""Query the use of hosts' slots by a search, and the causes of idle time. Times are Unix times in seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, case, func, select

from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt

OUTSIDE_STEPS: Final = "a worker loaded data, built a network or wrote a checkpoint"
OTHER_SEARCHES: Final = "a worker trained for other searches"
SEARCH_PAUSED: Final = "the search was paused"
WAITED: Final = "a worker waited for a candidate"
BEFORE_FIRST_WORKER: Final = "no worker had started yet"
NO_WORKER: Final = "no worker was running; the last one ended: {ending}"
UNKNOWN_ENDING: Final = "cause unknown"


@dataclass(frozen=True, slots=True)
class SlotUtilisation:
    """The use of one slot by a search.

    `busy` and `training` are shares of the search's wall time. During `busy`, a worker of the slot had a candidate.
    During `training`, the worker was in training and validation steps. `device_seconds` counts only the slot's share of
    the time for which several slots used the device together.
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
    """The seconds for which one cause kept a slot from the search's steps, and their share of the wall time."""

    host: str
    slot: int
    device: str
    cause: str
    seconds: float
    share: float


@dataclass(frozen=True, slots=True)
class Utilisation:
    """The use of all slots by a search; `busy` and `training` are means over the slots.

    The wall time runs from the first attempt to the last one and includes pauses.
    """

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

    def overlap(self, start: float, end: float) -> float:
        """Return the seconds that this span shares with the span from `start` to `end`."""
        return max(0.0, min(self.end, end) - max(self.start, start))


class _SlotKey(NamedTuple):
    host: str
    slot: int
    device: str


class _WorkerTimes(NamedTuple):
    """The attempts of one worker for one search: their number and their seconds."""

    worker_id: int
    attempts: int
    device_seconds: float
    step_seconds: float
    busy: float
    started_at: float
    ended_at: float


@dataclass(slots=True)
class _WorkerUse:
    """A worker process, and the seconds that it spent on this search and on other searches."""

    slot: _SlotKey
    lifetime: _Span
    ending: str | None
    attempts: int = 0
    device_seconds: float = 0.0
    step_seconds: float = 0.0
    busy: float = 0.0
    others: float = 0.0


def get_utilisation(connection: Connection, search_id: int, now: float) -> Utilisation:
    """Return the utilisation of one search; running attempts and workers count up to `now`."""
    columns = (search.c.name, search.c.device_seconds, search.c.scored)
    row = connection.execute(select(*columns).where(search.c.id == search_id)).one()
    own_times = _list_worker_times(connection, search_id, now)
    if own_times:
        whole = _Span(min(times.started_at for times in own_times), max(times.ended_at for times in own_times))
    else:
        whole = _Span(0.0, 0.0)
    wall_seconds = whole.end - whole.start
    workers = _list_workers(connection, search_id, own_times, whole, now)
    pauses = list(_list_pauses(connection, search_id, whole))
    slots: list[SlotUtilisation] = []
    idle: list[IdleTime] = []
    for slot, group in groupby(workers, key=lambda use: use.slot):
        workers_of_slot = tuple(group)
        slots.append(_slot_utilisation(slot, workers_of_slot, wall_seconds))
        idle += [
            IdleTime(slot.host, slot.slot, slot.device, cause, seconds, share=seconds / wall_seconds)
            for cause, seconds in _list_idle_causes(workers_of_slot, whole, pauses)
            if seconds > 0
        ]
    is_measurable = bool(slots) and wall_seconds > 0
    return Utilisation(
        search=row.name,
        wall_seconds=wall_seconds,
        device_seconds=row.device_seconds,
        scored=row.scored,
        candidates_per_hour=3600 * row.scored / wall_seconds if wall_seconds > 0 else None,
        busy=sum(slot.busy for slot in slots) / len(slots) if is_measurable else None,
        training=sum(slot.training for slot in slots) / len(slots) if is_measurable else None,
        slots=tuple(slots),
        idle=tuple(idle),
    )


def _slot_utilisation(slot: _SlotKey, workers: Sequence[_WorkerUse], wall_seconds: float) -> SlotUtilisation:
    busy = sum(use.busy for use in workers)
    in_steps = sum(use.step_seconds for use in workers)
    return SlotUtilisation(
        *slot,
        attempts=sum(use.attempts for use in workers),
        device_seconds=sum(use.device_seconds for use in workers),
        busy_seconds=busy,
        # Limit the shares to 1, because attempts can be longer than the wall time if the clock was set back.
        busy=min(1.0, busy / wall_seconds) if wall_seconds > 0 else 0.0,
        training=min(1.0, in_steps / wall_seconds) if wall_seconds > 0 else 0.0,
    )


def _list_idle_causes(workers: Sequence[_WorkerUse], whole: _Span, pauses: Sequence[_Span]) -> list[tuple[str, float]]:
    """Return the causes of a slot's idle time with their seconds, the longest first."""
    causes: dict[str, float] = defaultdict(float)
    idle_since, cause = whole.start, BEFORE_FIRST_WORKER
    for use in workers:
        causes[cause] += whole.overlap(idle_since, use.lifetime.start)
        free = max(0.0, use.lifetime.overlap(*whole) - use.busy - use.others)
        paused = min(free, sum(use.lifetime.overlap(*pause) for pause in pauses))
        causes[OUTSIDE_STEPS] += max(0.0, use.busy - use.step_seconds)
        causes[OTHER_SEARCHES] += use.others
        causes[SEARCH_PAUSED] += paused
        causes[WAITED] += free - paused
        idle_since, cause = max(idle_since, use.lifetime.end), NO_WORKER.format(ending=use.ending or UNKNOWN_ENDING)
    causes[cause] += whole.overlap(idle_since, whole.end)
    return sorted(causes.items(), key=lambda item: -item[1])


def _list_worker_times(
    connection: Connection, search_id: int, now: float, span: _Span | None = None
) -> list[_WorkerTimes]:
    """Return the times of each worker for a search, cut to `span` if it is given."""
    started_at: ColumnElement[float] = attempt.c.started_at
    ended_at: ColumnElement[float] = func.coalesce(attempt.c.ended_at, now)
    if span is not None:
        started_at = case((started_at < span.start, span.start), else_=started_at)
        ended_at = case((ended_at > span.end, span.end), else_=ended_at)
    query = (
        select(
            attempt.c.worker_id,
            func.count(),
            func.sum(attempt.c.device_seconds),
            func.sum(func.coalesce(attempt.c.step_seconds, attempt.c.device_seconds)),
            func.sum(ended_at - started_at),
            func.min(started_at),
            func.max(ended_at),
        )
        .select_from(candidate)
        .join(attempt, attempt.c.candidate_id == candidate.c.id)
        .where(candidate.c.search_id == search_id)
        .group_by(attempt.c.worker_id)
    )
    if span is not None:
        query = query.where(ended_at > started_at)
    return [_WorkerTimes._make(row) for row in connection.execute(query)]


def _list_workers(
    connection: Connection, search_id: int, own_times: Sequence[_WorkerTimes], whole: _Span, now: float
) -> list[_WorkerUse]:
    """Return all workers of the slots that the search used, ordered by slot and time."""
    if not own_times:
        return []
    workers = _find_workers(connection, [times.worker_id for times in own_times], now)
    for times in own_times:
        use = workers[times.worker_id]
        use.attempts, use.busy = times.attempts, times.busy
        use.device_seconds, use.step_seconds = times.device_seconds, times.step_seconds
    for other_id in _list_searches_during(connection, search_id, whole):
        for times in _list_worker_times(connection, other_id, now, whole):
            if times.worker_id in workers:
                workers[times.worker_id].others += times.busy
    return sorted(workers.values(), key=lambda use: (use.slot, use.lifetime))


def _find_workers(connection: Connection, worker_ids: Sequence[int], now: float) -> dict[int, _WorkerUse]:
    """Return these workers, and all other workers of their slots, by id."""
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
    served = frozenset(worker_ids)
    slots = {(row.device_id, row.slot) for row in rows if row.id in served}
    return {
        row.id: _WorkerUse(
            slot=_SlotKey(row.host, row.slot, row.device),
            lifetime=_Span(row.started_at, now if row.ended_at is None else row.ended_at),
            ending=row.ending,
        )
        for row in rows
        if (row.device_id, row.slot) in slots
    }


def _list_searches_during(connection: Connection, search_id: int, span: _Span) -> Sequence[int]:
    """Return the ids of the other searches that existed and were unfinished at some time in the span."""
    query = select(search.c.id).where(
        search.c.id != search_id,
        search.c.created_at < span.end,
        search.c.finished_at.is_(None) | (search.c.finished_at > span.start),
    )
    return connection.execute(query).scalars().all()


def _list_pauses(connection: Connection, search_id: int, span: _Span) -> Iterator[_Span]:
    """Yield the pauses of a search within a span."""
    # The sum `search_id + 0` keeps query planners from using the index of the search's events, because most of these
    # events belong to candidates.
    query = (
        select(event.c.kind, event.c.at)
        .where(event.c.candidate_id.is_(None), event.c.search_id + 0 == search_id)
        .where(event.c.kind.in_(("paused", "resumed")))
        .order_by(event.c.id)
    )
    paused_at = None
    for kind, at in connection.execute(query):
        if kind == "paused":
            paused_at = at if paused_at is None else paused_at
        elif paused_at is not None:
            yield _Span(max(paused_at, span.start), min(at, span.end))
            paused_at = None
    if paused_at is not None:
        yield _Span(max(paused_at, span.start), span.end)
