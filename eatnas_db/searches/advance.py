"""Advance a search: settle what has ended, breed what comes next, finish it.

Each is a query, a pure function of the domain, and a submission. All are level-triggered: they look at what
is there and do what is missing, so a crash between two of them loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, insert, select, update

from eatnas_db import events
from eatnas_db.candidates import insert_candidate
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.evolution import (
    InitialArchitecture,
    Member,
    Plateau,
    decide_birth,
    is_flat,
    select_removed,
    summarize,
    update_plateau,
)
from eatnas_db.domain.states import SETTLED, CandidateState, DesiredState, SearchKind
from eatnas_db.domain.transfer import Perturbation
from eatnas_db.errors import CollisionError, NoRoomError
from eatnas_db.queries.ranking import list_best
from eatnas_db.queries.searches import SearchRecord, births_allowed
from eatnas_db.schema.candidates import PENDING, architecture, candidate
from eatnas_db.schema.searches import search, step
from eatnas_db.schema.trainings import attempt, lease
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.population import join_population, leave_population
from eatnas_db.searches.retrain import insert_yardstick
from eatnas_db.searches.search_space import space_of

DEFAULT_FLAT_POPULATIONS: Final = 4


def advance_search(connection: Connection, row: SearchRecord, now: float) -> bool:
    """Settle, breed and finish a search whose row was read in this transaction. Whether it is finished.

    On a server the transaction holds the search (`database.hold_searches`); raises `CollisionError` if not.
    """
    course = SearchProgress(row)
    _settle(connection, course, now)
    _breed(connection, course, now)
    return _finish(connection, course, now)


def settle_births(connection: Connection, search_id: int, now: float) -> int:
    """Advance the settled prefix over every birth that has ended; each is one step. How many were made."""
    return _settle(connection, SearchProgress(lock_search(connection, search_id)), now)


def breed_births(connection: Connection, search_id: int, now: float) -> int:
    """Submit every birth that may be decided now. How many were made."""
    return _breed(connection, SearchProgress(lock_search(connection, search_id)), now)


def finish_search(connection: Connection, search_id: int, now: float) -> bool:
    """Mark a search finished when nothing of it is left to do. Whether it is."""
    return _finish(connection, SearchProgress(lock_search(connection, search_id)), now)


class SearchProgress:
    """A search within one transaction: its row, and the counters as this transaction moves them on."""

    __slots__ = ("born", "ends_at", "exhausted", "living", "row", "settled", "watch")

    def __init__(self, row: SearchRecord) -> None:
        self.row = row
        self.born: int = row.born
        self.settled: int = row.settled
        self.exhausted: bool = row.exhausted
        self.ends_at: int | None = row.ends_at
        self.watch = (
            None if row.quality_mark is None or row.flat_since is None else Plateau(row.quality_mark, row.flat_since)
        )
        self.living: list[Member] | None = None

    @property
    def births_allowed(self) -> int:
        """After so many births the search ends."""
        return births_allowed(self.row.budget_candidates, self.ends_at)

    def may_be_born(self) -> bool:
        """Whether the next birth may be decided now."""
        row = self.row
        if self.exhausted or row.wish != DesiredState.RUN or self.born >= self.births_allowed or row.over_budget:
            return False
        return self.born < row.population or self.born - row.lag + 1 <= self.settled


def _settle(connection: Connection, course: SearchProgress, now: float) -> int:
    made = 0
    while _settle_one(connection, course, now):
        made += 1
    return made


_ENDED: Final = select(candidate.c.id, candidate.c.state).where(
    candidate.c.search_id == bindparam("of"), candidate.c.birth == bindparam("birth")
)


_ADVANCE: Final = (
    update(search)
    .where(search.c.id == bindparam("of"), search.c.settled == bindparam("number") - 1)
    .values(settled=bindparam("number"))
    .returning(search.c.id)
)


_BEFORE: Final = select(step.c.device_seconds).where(
    step.c.search_id == bindparam("of"), step.c.number == bindparam("before")
)


_ON_BIRTH: Final = select(func.sum(attempt.c.device_seconds)).where(attempt.c.candidate_id == bindparam("ended"))


_NEW_STEP: Final = insert(step).values(
    device_seconds=func.coalesce(_BEFORE.scalar_subquery(), 0.0) + func.coalesce(_ON_BIRTH.scalar_subquery(), 0.0)
)


def _settle_one(connection: Connection, course: SearchProgress, now: float) -> bool:
    row = course.row
    if course.settled == course.born:
        return False
    ended = connection.execute(_ENDED, {"of": row.id, "birth": course.settled}).first()
    if ended is None or ended.state not in SETTLED:
        return False
    number = course.settled + 1
    if connection.execute(_ADVANCE, {"of": row.id, "number": number}).first() is None:
        raise CollisionError(f"another program has settled birth {course.settled} of {row.name!r} first; try again")
    course.settled, course.living = number, None
    if ended.state == CandidateState.SCORED:
        join_population(connection, ended.id, number)
    population = _population(connection, course, number)
    gone = select_removed(population, row.population, row.spec["evolution"]["removal"], seed=row.seed, step=number)
    if gone is not None:
        leave_population(connection, gone.candidate_id, number)
        population.remove(gone)
    course.living = population
    summary = summarize([member.fitness for member in population])
    values = {
        "search_id": row.id,
        "number": number,
        "of": row.id,
        "before": number - 1,
        "ended": ended.id,
        "size": summary.size,
        "mean": summary.mean,
        "spread": summary.spread,
        "best": summary.best,
        "quality": summary.quality,
        "at": now,
    }
    connection.execute(_NEW_STEP, values)
    if row.spec["evolution"]["stop_when"] == "quality_flat" and row.kind == SearchKind.EVOLUTION:
        _watch_quality(connection, course, summary.quality, now)
    return True


def _watch_quality(connection: Connection, course: SearchProgress, quality: float | None, now: float) -> None:
    """Note a rise of quality; or that there was none for so long that the search is to end.

    It ends with the births that may be in flight when step s is made, the first s + lag - 1: wherever it runs,
    these are born whatever that step says, and the next one may only be born when it is known.
    """
    row, number = course.row, course.settled
    if number < row.population or course.ends_at is not None:
        return
    evolution = row.spec["evolution"]
    watch = update_plateau(course.watch, number, quality, evolution["flat_by"])
    flat_steps = evolution["flat_steps"] or DEFAULT_FLAT_POPULATIONS * row.population
    if watch is not None and watch != course.watch:
        course.watch = watch
        values: dict[str, Any] = {"quality_mark": watch.mark, "flat_since": watch.since}
    elif watch is not None and is_flat(watch, number, population=row.population, flat_steps=flat_steps):
        course.ends_at = min(number + row.lag - 1, row.budget_candidates)
        values = {"ends_at": course.ends_at}
        detail = {"step": number, "since": watch.since, "by": evolution["flat_by"], "births": course.ends_at}
        events.record_event(connection, now, "quality_flat", row.id, detail=detail)
    else:
        return
    connection.execute(update(search).where(search.c.id == row.id).values(values))


def _breed(connection: Connection, course: SearchProgress, now: float) -> int:
    if not course.may_be_born():
        return 0
    row, made = course.row, 0
    space = space_of(row)
    while course.may_be_born():
        sees = course.born - row.lag + 1
        try:
            birth = decide_birth(
                course.born,
                seed=row.seed,
                population_size=row.population,
                tournament_size=row.spec["evolution"]["tournament"],
                population=_population(connection, course, sees) if course.born >= row.population else (),
                space=space,
                held=_held(connection, row.id, course.born),
                seedling=_seedling(connection, course),
            )
        except NoRoomError as error:
            connection.execute(update(search).where(search.c.id == row.id).values(exhausted=True))
            events.record_event(connection, now, "space_exhausted", row.id, detail={"message": str(error)})
            course.exhausted = True
            break
        if insert_candidate(connection, row.id, birth, now) is None:
            break
        course.born += 1
        made += 1
    return made


def _seedling(connection: Connection, course: SearchProgress) -> InitialArchitecture | None:
    """What the initial population grows from where it is not random, while it has still to be born."""
    row = course.row
    if row.basic_code is None or course.born >= row.population:
        return None
    own = (candidate.c.search_id == row.id) & (candidate.c.birth == 0)
    given = select(candidate.c.id, candidate.c.code).where(
        own if row.basic_id is None else candidate.c.id == row.basic_id
    )
    parent = connection.execute(given).first()
    basic = Architecture.parse(row.basic_code)
    strength = Perturbation(row.spec["transfer"]["blocks"], tuple(row.spec["transfer"]["primitives"]))
    if parent is None:
        return InitialArchitecture(None, basic, basic, strength)
    return InitialArchitecture(parent.id, basic, Architecture.parse(parent.code), strength)


def _finish(connection: Connection, course: SearchProgress, now: float) -> bool:
    row = course.row
    if row.finished_at is not None:
        return True
    spent = row.over_budget
    done = course.settled == course.born and (course.exhausted or course.born >= course.births_allowed)
    if not (spent or done):
        return False
    of_search = select(candidate.c.id).where(candidate.c.search_id == row.id).limit(1)
    leased = of_search.join(lease)
    # A retried candidate lies behind the settled prefix, and is still to be trained.
    pending = of_search.where(PENDING)
    if connection.execute(leased).first() or (not spent and connection.execute(pending).first()):
        return False
    connection.execute(update(search).where(search.c.id == row.id).values(finished_at=now))
    flat = done and not course.exhausted and course.born < row.budget_candidates
    why = "its quality is flat" if flat else "done" if done else "out of budget"
    events.record_event(connection, now, "finished", row.id, detail={"why": why})
    yardstick = row.spec["yardstick"]
    best = list_best(connection, row.id, yardstick["top"]) if yardstick["top"] else ()
    if best and row.kind == SearchKind.EVOLUTION:
        measured = [(one.id, one.code) for one in best]
        insert_yardstick(connection, row, measured, yardstick["seeds"], yardstick["epochs"], now)
    return True


_MEMBERS: Final = select(
    candidate.c.id, candidate.c.birth, candidate.c.joined, candidate.c.fitness, candidate.c.code
).where(candidate.c.search_id == bindparam("of"), candidate.c.joined <= bindparam("step"))


# Two range reads, each by its own partial index: those who live, and those who left since that step.
_LIVING: Final = _MEMBERS.where(candidate.c.joined.is_not(None), candidate.c.left.is_(None))


_LEFT_SINCE: Final = _MEMBERS.where(candidate.c.left > bindparam("step"), candidate.c.left.is_not(None))


def _population(connection: Connection, course: SearchProgress, at_step: int) -> list[Member]:
    if at_step == course.settled and course.living is not None:
        return course.living
    asked = {"of": course.row.id, "step": at_step}
    rows = [*connection.execute(_LIVING, asked)]
    if at_step < course.settled:
        rows += connection.execute(_LEFT_SINCE, asked)
    return sorted((Member(*row) for row in rows), key=lambda member: member.birth)


_HELD: Final = (
    select(candidate.c.id)
    .join(architecture)
    .where(
        architecture.c.digest == bindparam("digest"),
        candidate.c.search_id == bindparam("of"),
        candidate.c.birth < bindparam("before"),
    )
)


def _held(connection: Connection, search_id: int, before: int) -> Callable[[str], bool]:
    def held(digest: str) -> bool:
        asked = {"digest": digest, "of": search_id, "before": before}
        return connection.execute(_HELD, asked).first() is not None

    return held
