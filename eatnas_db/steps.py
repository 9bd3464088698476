"""The steps of a search: create it, settle what has ended, breed what comes next.

Each is a query, a pure function of the domain, and a submission. All are level-triggered: they look at what
is there and do what is missing, so a crash between two of them loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, exists, insert, select, update

from eatnas_db import transitions
from eatnas_db.domain.evolution import Member, decide_birth, leaver, summarize
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec, macro_from_stored, stored_macro
from eatnas_db.domain.states import SETTLED, State, Wish
from eatnas_db.errors import ConflictError, NoRoomError
from eatnas_db.queries.searches import get_search
from eatnas_db.schema import architecture, candidate, lease, search, step

DEFAULT_LEAST_LAG: Final = 4


def create_search(
    connection: Connection,
    spec: SearchSpec,
    *,
    task: Task,
    data_digest: str,
    slots: int,
    now: float,
) -> int:
    """Insert a search and its initial population. Raises `ConflictError`, `NoRoomError`."""
    space = Space(spec.macro(), task, Limits(spec.objective.max_params, spec.objective.max_mult_adds))
    space.require_room()
    if connection.execute(select(exists().where(search.c.name == spec.name))).scalar():
        raise ConflictError(f"a search named {spec.name!r} is there already; choose another name")
    lag = spec.evolution.lag or min(max(2 * slots, DEFAULT_LEAST_LAG), spec.evolution.population)
    search_id = connection.execute(
        insert(search)
        .values(
            name=spec.name,
            seed=spec.seed,
            priority=spec.priority,
            spec=spec.model_dump(mode="json"),
            macro=stored_macro(space.macro),
            task={"resolution": task.resolution, "channels": task.channels, "classes": task.classes},
            data_digest=data_digest,
            population=spec.evolution.population,
            lag=lag,
            budget_candidates=spec.budget.candidates,
            budget_device_seconds=spec.budget.device_hours and spec.budget.device_hours * 3600,
            wish=Wish.RUN,
            created_at=now,
        )
        .returning(search.c.id)
    ).scalar_one()
    transitions.record_event(connection, now, "created", search_id)
    breed(connection, search_id, now)
    return int(search_id)


def settle(connection: Connection, search_id: int, now: float) -> int:
    """Advance the settled prefix over every birth that has ended; each is one step. How many were made."""
    made = 0
    while _settle_one(connection, search_id, now):
        made += 1
    return made


def breed(connection: Connection, search_id: int, now: float) -> int:
    """Submit every birth that may be decided now. How many were made."""
    made = 0
    row = get_row(connection, search_id)
    space = space_of(row)
    evolution = row.spec["evolution"]
    while row.wish == Wish.RUN and not row.exhausted and _may_be_born(row):
        sees = row.born - row.lag + 1
        try:
            birth = decide_birth(
                row.born,
                seed=row.seed,
                population_size=row.population,
                tournament_size=evolution["tournament"],
                population=_population(connection, search_id, sees) if row.born >= row.population else (),
                space=space,
                held=_held(connection, search_id, row.born),
            )
        except NoRoomError as error:
            connection.execute(update(search).where(search.c.id == search_id).values(exhausted=True))
            transitions.record_event(connection, now, "space_exhausted", search_id, detail={"message": str(error)})
            break
        if transitions.submit(connection, search_id, birth, now) is None:
            break
        made += 1
        row = get_row(connection, search_id)
    return made


def finish(connection: Connection, search_id: int, now: float) -> bool:
    """Mark a search finished when nothing of it is left to do. Whether it is."""
    row = get_row(connection, search_id)
    if row.finished_at is not None:
        return True
    spent = over_budget(row)
    done = row.settled == row.born and (row.exhausted or row.born >= row.budget_candidates)
    if not (spent or done):
        return False
    of_search = select(candidate.c.id).where(candidate.c.search_id == search_id).limit(1)
    leased = of_search.join(lease)
    # A retried candidate lies behind the settled prefix, and is still to be trained.
    pending = of_search.where(candidate.c.state == State.PENDING)
    if connection.execute(leased).first() or (not spent and connection.execute(pending).first()):
        return False
    connection.execute(update(search).where(search.c.id == search_id).values(finished_at=now))
    why = "done" if done else "out of budget"
    transitions.record_event(connection, now, "finished", search_id, detail={"why": why})
    return True


def set_wish(connection: Connection, name: str, wish: Wish, now: float) -> None:
    """Run, pause or cancel a search. Raises `NotFoundError`, `ConflictError`."""
    row = get_search(connection, name)
    if row.wish == Wish.CANCELLED:
        raise ConflictError(f"search {name!r} was cancelled, which is final")
    if row.finished_at is not None:
        raise ConflictError(f"search {name!r} has finished; `search extend` gives it more to do")
    connection.execute(update(search).where(search.c.id == row.id).values(wish=wish))
    transitions.record_event(connection, now, {"run": "resumed"}.get(wish, wish), row.id)
    if wish == Wish.CANCELLED:
        open_ = select(candidate.c.id).where(
            candidate.c.search_id == row.id, candidate.c.state.in_((State.PENDING, State.LEASED))
        )
        for candidate_id in connection.execute(open_).scalars().all():
            transitions.cancel(connection, candidate_id, now)
        settle(connection, row.id, now)
        connection.execute(update(search).where(search.c.id == row.id).values(finished_at=now))


def extend(connection: Connection, name: str, more: int, now: float) -> int:
    """Give a search more candidates to try; reopens a finished one. The new budget."""
    row = get_search(connection, name)
    if row.wish == Wish.CANCELLED:
        raise ConflictError(f"search {name!r} was cancelled, which is final")
    budget = int(row.budget_candidates) + more
    connection.execute(update(search).where(search.c.id == row.id).values(budget_candidates=budget, finished_at=None))
    transitions.record_event(connection, now, "extended", row.id, detail={"candidates": budget})
    breed(connection, row.id, now)
    return budget


def space_of(row: Any) -> Space:
    """The space that a search's row describes."""
    objective = row.spec["objective"]
    limits = Limits(objective["max_params"], objective["max_mult_adds"])
    return Space(macro_from_stored(row.macro), Task(**row.task), limits)


def over_budget(row: Any) -> bool:
    """Whether a search has used up its device hours."""
    return row.budget_device_seconds is not None and row.device_seconds >= row.budget_device_seconds


def _may_be_born(row: Any) -> bool:
    if row.born >= row.budget_candidates or over_budget(row):
        return False
    return bool(row.born < row.population or row.born - row.lag + 1 <= row.settled)


def _settle_one(connection: Connection, search_id: int, now: float) -> bool:
    row = get_row(connection, search_id)
    ended = connection.execute(
        select(candidate.c.id, candidate.c.state).where(
            candidate.c.search_id == search_id,
            candidate.c.birth == row.settled,
            candidate.c.state.in_(SETTLED),
        )
    ).first()
    if ended is None:
        return False
    number = row.settled + 1
    won = connection.execute(
        update(search)
        .where(search.c.id == search_id, search.c.settled == row.settled)
        .values(settled=number)
        .returning(search.c.id)
    ).first()
    if won is None:
        return False
    if ended.state == State.SCORED:
        transitions.set_membership(connection, ended.id, joined=number)
    population = _population(connection, search_id, number)
    removal = row.spec["evolution"]["removal"]
    gone = leaver(population, row.population, removal, seed=row.seed, step=number)
    if gone is not None:
        transitions.set_membership(connection, gone.candidate_id, left=number)
        population.remove(gone)
    summary = summarize([member.fitness for member in population])
    connection.execute(
        insert(step).values(
            search_id=search_id,
            number=number,
            size=summary.size,
            mean=summary.mean,
            spread=summary.spread,
            best=summary.best,
            quality=summary.quality,
            at=now,
        )
    )
    return True


def _population(connection: Connection, search_id: int, at_step: int) -> list[Member]:
    # Two range reads, each by its own partial index: those who live, and those who left since that step.
    columns = (candidate.c.id, candidate.c.birth, candidate.c.joined, candidate.c.fitness, candidate.c.code)
    of_search = select(*columns).where(candidate.c.search_id == search_id, candidate.c.joined <= at_step)
    living = of_search.where(candidate.c.joined.is_not(None), candidate.c.left.is_(None))
    later = of_search.where(candidate.c.left > at_step, candidate.c.left.is_not(None))
    rows = [*connection.execute(living), *connection.execute(later)]
    return sorted((Member(*row) for row in rows), key=lambda member: member.birth)


def _held(connection: Connection, search_id: int, before: int) -> Callable[[str], bool]:
    def held(digest: str) -> bool:
        query = (
            select(candidate.c.id)
            .join(architecture)
            .where(
                architecture.c.digest == digest,
                candidate.c.search_id == search_id,
                candidate.c.birth < before,
            )
        )
        return connection.execute(query).first() is not None

    return held


def get_row(connection: Connection, search_id: int) -> Any:
    """A search's row as it is inside this transaction."""
    return connection.execute(select(search).where(search.c.id == search_id)).one()
