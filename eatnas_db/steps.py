"""The steps of a search: create it, settle what has ended, breed what comes next.

Each is a query, a pure function of the domain, and a submission. All are level-triggered: they look at what
is there and do what is missing, so a crash between two of them loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, or_, select, update

from eatnas_db import transitions
from eatnas_db.database import hold_searches
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.evolution import (
    Birth,
    InitialArchitecture,
    Member,
    Plateau,
    decide_birth,
    is_flat,
    select_removed,
    summarize,
    update_plateau,
)
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.recipe import LONGER, without_timing
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec, macro_from_stored, stored_macro
from eatnas_db.domain.states import SETTLED, CandidateState, DesiredState, Origin, SearchKind
from eatnas_db.domain.transfer import Perturbation, Survivors, stretched, survivors
from eatnas_db.errors import CollisionError, ConflictError, NoRoomError, NotFoundError
from eatnas_db.queries.ranking import get_winner, list_best, list_final_models, list_living, list_winners
from eatnas_db.queries.searches import SearchRecord, births_allowed, get_open_yardstick, get_search, over_budget
from eatnas_db.schema import PENDING, architecture, attempt, candidate, checkpoint, lease, search, step

DEFAULT_LEAST_LAG: Final = 4
DEFAULT_FLAT_POPULATIONS: Final = 4


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
    given = spec.transfer.basic
    basic = None if given is None else str(_expressed(Architecture.parse(given), "transfer.basic", spec, space))
    search_id = _insert(connection, spec, space, data_digest, slots, now, basic_code=basic)
    transitions.record_event(connection, now, "created", search_id)
    breed(connection, search_id, now)
    if basic is not None:
        _require_population(get_row(connection, search_id))
    return search_id


def transfer(
    connection: Connection,
    source: str,
    spec: SearchSpec,
    *,
    candidate_id: int | None = None,
    force: bool = False,
    task: Task,
    data_digest: str,
    slots: int,
    now: float,
) -> int:
    """Insert a search whose initial population is the best of `source`, or the candidate given, and perturbations.

    Under `transfer.start: survivors` it is the best and those who live in `source`; perturbations fill it up.
    `force`: the source need not be finished. Raises `NotFoundError`, `ConflictError`, `NoRoomError`,
    `InvalidArchitectureError`; then nothing is written.
    """
    if spec.transfer.basic is not None:
        raise ConflictError(f"the basic architecture comes from {source!r}: leave transfer.basic out of the spec")
    old = get_search(connection, source)
    measuring = _require_source(connection, old, force)
    basic_id, code, chosen = _basic(connection, old, candidate_id)
    space = Space(spec.macro(), task, Limits(spec.objective.max_params, spec.objective.max_mult_adds))
    space.require_room()
    ranked = [(basic_id, code)]
    found = Survivors((), 0, 0)
    if spec.transfer.start == "survivors":
        ranked += [(one.id, one.code) for one in list_living(connection, old.id) if one.id != basic_id]
        architectures = [Architecture.parse(each) for _, each in ranked]
        _require_blocks(architectures[0], f"candidate {basic_id}", space)
        found = survivors(architectures, space, min(spec.evolution.population, spec.budget.candidates))
        if found.taken and found.taken[0][0] > 0 and candidate_id is None:
            basic_id, code = ranked[found.taken[0][0]]
            chosen = "the best of its population that this task has room for"
    if measuring is not None and candidate_id is None:
        chosen += f"; {measuring.name!r} is not finished"
    basic = _expressed(Architecture.parse(code), f"candidate {basic_id}", spec, space)
    search_id = _insert(connection, spec, space, data_digest, slots, now, old.id, basic_id, str(basic))
    detail = {"source": source, "candidate": basic_id, "code": str(basic), "chosen": chosen}
    transitions.record_event(connection, now, "transferred", search_id, detail=detail)
    for number, (place, proposal) in enumerate(found.taken):
        origin = Origin.SURVIVOR if number else Origin.BASIC
        transitions.submit(connection, search_id, Birth(number, origin, proposal, ranked[place][0]), now)
    if found.taken:
        counts = {"over_limits": found.over_limits, "same_network": found.same_network}
        detail = {"source": source, "taken": len(found.taken), **counts}
        transitions.record_event(connection, now, "survivors_taken", search_id, detail=detail)
    breed(connection, search_id, now)
    _require_population(get_row(connection, search_id))
    return search_id


def _require_source(connection: Connection, source: SearchRecord, force: bool) -> SearchRecord | None:
    """Refuse a search that is not to be transferred from; its yardstick, where that is not finished."""
    name = source.name
    if source.kind != SearchKind.EVOLUTION:
        raise ConflictError(f"{name!r} measures what another search found: transfer from that one")
    if source.finished_at is None and not force:
        raise ConflictError(f"search {name!r} is not finished ({source.status}); --force transfers what it has")
    measuring = get_open_yardstick(connection, source.id)
    if measuring is not None and not force:
        raise ConflictError(
            f"{measuring.name!r}, which says what is best in {name!r}, is not finished; run it first, or --force"
        )
    return measuring


def rescore(connection: Connection, name: str, *, top: int, seeds: int, epochs: int | None = None, now: float) -> str:
    """Insert a search that trains the best `top` of another from scratch, each with fresh `seeds`; its name.

    Raises `NotFoundError`, `ConflictError`.
    """
    row = get_search(connection, name)
    if row.kind != SearchKind.EVOLUTION:
        raise ConflictError(f"{name!r} measures what another search found: rescore that one")
    best = list_best(connection, row.id, top)
    if not best:
        raise ConflictError(
            f"search {name!r} has no scored candidate yet: there is nothing to measure again; run it first"
        )
    return _insert_yardstick(connection, row, [(one.id, one.code) for one in best], seeds, epochs, now)


def final(
    connection: Connection,
    name: str,
    *,
    candidate_ids: Sequence[int] = (),
    top: int = 1,
    seeds: int = 3,
    epochs: int | None = None,
    again: bool = False,
    now: float,
) -> str:
    """Insert a search that trains final models, and tests each once: the candidates given, or else the `top` winners.

    From scratch with fresh `seeds`, on training and validation images together. `again`: what was tested by this
    recipe before may be tested with more seeds. Its name. Raises `NotFoundError`, `ConflictError`.
    """
    hold_searches(connection, select(search.c.id).where(search.c.name == name))
    row = get_search(connection, name)
    if row.kind != SearchKind.EVOLUTION:
        raise ConflictError(f"{name!r} measures what another search found: final models are of that one")
    chosen = [_basic(connection, row, one)[:2] for one in dict.fromkeys(candidate_ids)]
    if not chosen:
        _require_winners(connection, row)
        chosen = [(one.id, one.code) for one in list_winners(connection, row.id, top)]
    training = {**row.spec["training"], "epochs": epochs or LONGER * row.spec["training"]["epochs"]}
    births = []
    for parent, code in chosen:
        same = [one for one in list_final_models(connection, [parent]) if one.recipe == without_timing(training)]
        looks = [one for one in same if one.state not in (CandidateState.FAILED, CandidateState.CANCELLED)]
        if looks and not again:
            raise ConflictError(
                f"candidate {parent} is tested by this recipe already, in {looks[0].search!r}: each further look makes "
                "the test set less of a test; --again takes one all the same, with fresh seeds"
            )
        used = max((one.replica for one in same), default=0)
        births += [(parent, code, replica) for replica in range(used + 1, used + seeds + 1)]
    return _insert_trainings(connection, row, SearchKind.FINAL, Origin.FINAL, births, training, now)


def advance(connection: Connection, row: Any, now: float) -> bool:
    """Settle, breed and finish a search whose row was read in this transaction. Whether it is finished.

    On a server the transaction holds the search (`database.hold_searches`); raises `CollisionError` if not.
    """
    course = SearchProgress(row)
    _settle(connection, course, now)
    _breed(connection, course, now)
    return _finish(connection, course, now)


def settle(connection: Connection, search_id: int, now: float) -> int:
    """Advance the settled prefix over every birth that has ended; each is one step. How many were made."""
    return _settle(connection, SearchProgress(get_row(connection, search_id)), now)


def breed(connection: Connection, search_id: int, now: float) -> int:
    """Submit every birth that may be decided now. How many were made."""
    return _breed(connection, SearchProgress(get_row(connection, search_id)), now)


def finish(connection: Connection, search_id: int, now: float) -> bool:
    """Mark a search finished when nothing of it is left to do. Whether it is."""
    return _finish(connection, SearchProgress(get_row(connection, search_id)), now)


def collect(connection: Connection, row: Any) -> list[str]:
    """Drop the rows of checkpoints that nobody needs any more; their paths, to be removed after the commit.

    Needed are those of candidates that are to be trained, that live, that a birth still to be decided may have
    for a parent, or that have a child in training. The table holds little else, so reading it stays cheap.
    """
    child = candidate.alias("child")
    waits = exists().where(
        child.c.parent_id == candidate.c.id, child.c.state.in_((CandidateState.PENDING, CandidateState.LEASED))
    )
    needless = (
        select(checkpoint.c.path)
        .join(candidate)
        .where(
            # A sum, so that no planner goes by an index of the search: it would read the whole history.
            candidate.c.search_id + 0 == row.id,
            candidate.c.state.in_(SETTLED),
            candidate.c.birth < row.settled,
            or_(candidate.c.joined.is_(None), candidate.c.left <= row.born - row.lag + 1),
            ~waits,
        )
    )
    paths = list(connection.execute(needless).scalars())
    if paths:
        connection.execute(delete(checkpoint).where(checkpoint.c.path.in_(paths)))
    return paths


def set_waiting(connection: Connection, why: str | None) -> None:
    """Say of every open search what its training waits for; None: for nothing."""
    connection.execute(update(search).where(search.c.finished_at.is_(None)).values(waiting=why))


def _expressed(before: Architecture, what: str, spec: SearchSpec, space: Space) -> Architecture:
    """A basic architecture as it is on the new task. Raises `ConflictError`, `NoRoomError` where it cannot be."""
    _require_blocks(before, what, space)
    wanted = spec.transfer.stretch_to
    basic = before if wanted is None else stretched(before, space, wanted, spec.transfer.stretch)
    cost = space.propose(basic).cost
    if not space.limits.allow(cost):
        other = "take transfer.start: perturbations and " if spec.transfer.start == "survivors" else ""
        raise NoRoomError(
            f"the basic architecture has {cost.params:,} parameters and {cost.mult_adds:,} mult-adds on this task, "
            f"over the objective's limits; raise them, or {other}let transfer.stretch_to bring it below"
        )
    return basic


def _require_blocks(architecture: Architecture, what: str, space: Space) -> None:
    if len(architecture.blocks) != len(space.macro.base):
        raise ConflictError(
            f"{what} has {len(architecture.blocks)} blocks and space {space.macro.name} has {len(space.macro.base)}: "
            "it cannot be built there"
        )


def _require_population(row: Any) -> None:
    if row.exhausted:
        raise NoRoomError(
            f"only {row.born} of {row.population} members of the initial population fit under the objective's limits "
            "around the basic architecture; raise transfer.blocks or the limits, or take a smaller population"
        )


def _basic(connection: Connection, source: SearchRecord, candidate_id: int | None) -> tuple[int, str, str]:
    """The candidate that a transfer begins with: its id, its code, and by what it was chosen."""
    if candidate_id is not None:
        given = select(candidate.c.code).where(candidate.c.id == candidate_id, candidate.c.search_id == source.id)
        code = connection.execute(given).scalar()
        if code is None:
            raise NotFoundError(
                f"search {source.name!r} has no candidate {candidate_id}; see `eatnas-db query best {source.name}`"
            )
        return candidate_id, str(code), "as was asked for"
    winner = get_winner(connection, source.id)
    if winner is None:
        raise ConflictError(
            f"search {source.name!r} has no scored candidate: there is nothing to transfer; run it first"
        )
    if winner.yardstick is None:
        return winner.id, winner.code, "its best by fitness alone, which no yardstick has measured"
    seeds = f"{winner.yardstick_seeds} seed{'' if winner.yardstick_seeds == 1 else 's'}"
    return winner.id, winner.code, f"its best by the yardstick, {winner.yardstick:.4f} over {seeds}"


def _insert(
    connection: Connection,
    spec: SearchSpec,
    space: Space,
    data_digest: str,
    slots: int,
    now: float,
    source_id: int | None = None,
    basic_id: int | None = None,
    basic_code: str | None = None,
) -> int:
    if connection.execute(select(exists().where(search.c.name == spec.name))).scalar():
        raise ConflictError(f"a search named {spec.name!r} is there already; choose another name")
    lag = spec.evolution.lag or _lag_for(spec, slots)
    values = {
        "name": spec.name,
        "kind": SearchKind.EVOLUTION,
        "source_id": source_id,
        "basic_id": basic_id,
        "basic_code": basic_code,
        "seed": spec.seed,
        "priority": spec.priority,
        "spec": spec.model_dump(mode="json"),
        "macro": stored_macro(space.macro),
        "task": {
            "resolution": space.task.resolution,
            "channels": space.task.channels,
            "classes": space.task.classes,
        },
        "data_digest": data_digest,
        "population": spec.evolution.population,
        "lag": lag,
        "budget_candidates": spec.budget.candidates,
        "budget_device_seconds": spec.budget.device_hours and spec.budget.device_hours * 3600,
        "wish": DesiredState.RUN,
        "created_at": now,
    }
    return int(connection.execute(insert(search).values(values).returning(search.c.id)).scalar_one())


def _lag_for(spec: SearchSpec, slots: int) -> int:
    """Twice the slots, as far as the first tournament still has as many members as it asks for; and at least 4."""
    population = spec.evolution.population
    choosy = population - spec.evolution.tournament + 1
    return min(max(DEFAULT_LEAST_LAG, min(2 * slots, choosy)), population)


def _insert_yardstick(
    connection: Connection, row: Any, best: Sequence[tuple[int, str]], seeds: int, epochs: int | None, now: float
) -> str:
    """Each of the best, once for each seed."""
    training = {**row.spec["training"], "epochs": epochs or row.spec["training"]["epochs"]}
    births = [(parent, code, replica) for parent, code in best for replica in range(1, seeds + 1)]
    return _insert_trainings(connection, row, SearchKind.YARDSTICK, Origin.YARDSTICK, births, training, now)


def _insert_trainings(
    connection: Connection,
    row: Any,
    kind: SearchKind,
    origin: Origin,
    births: Sequence[tuple[int, str, int]],
    training: dict[str, Any],
    now: float,
) -> str:
    """A search of given births, each a candidate of the search `row`, its code and which of its seeds; its name."""
    taken = set(connection.execute(select(search.c.name).where(search.c.source_id == row.id)).scalars())
    names = (f"{row.name[:48]}.{kind}{'' if number == 1 else number}" for number in count(1))
    name = next(name for name in names if name not in taken)
    trainings = len(births)
    budget = {**row.spec["budget"], "candidates": trainings, "device_hours": None}
    if kind == SearchKind.FINAL:  # the limit was for the search's recipe
        budget["candidate_seconds"] = None
    spec = {
        **row.spec,
        "name": name,
        "training": training,
        "budget": budget,
        "inheritance": {**row.spec["inheritance"], "weights": "fresh"},
        "yardstick": {**row.spec["yardstick"], "top": 0},
    }
    values = {
        **{key: getattr(row, key) for key in ("seed", "macro", "task", "data_digest")},
        "name": name,
        "kind": kind,
        "source_id": row.id,
        # Before anything else: somebody waits for what it will say of the best.
        "priority": row.priority + 1,
        "spec": spec,
        "population": trainings,
        "lag": trainings,
        "budget_candidates": trainings,
        "wish": DesiredState.RUN,
        "created_at": now,
    }
    search_id = int(connection.execute(insert(search).values(values).returning(search.c.id)).scalar_one())
    transitions.record_event(connection, now, "created", search_id, detail={"source": row.name})
    space = space_of(row)
    for number, (parent, code, replica) in enumerate(births):
        proposal = space.propose(Architecture.parse(code))
        transitions.submit(connection, search_id, Birth(number, origin, proposal, parent), now, replica)
    return name


def _require_winners(connection: Connection, row: SearchRecord) -> None:
    """Raise `ConflictError` while it may still change which candidates of a search are the winners."""
    if row.finished_at is None:
        raise ConflictError(f"search {row.name!r} is not finished ({row.status}); --candidate ID tests one of it now")
    if (measuring := get_open_yardstick(connection, row.id)) is not None:
        raise ConflictError(
            f"{measuring.name!r}, which says what is best in {row.name!r}, is not finished; run it first, or name one "
            "with --candidate"
        )
    if get_winner(connection, row.id) is None:
        raise ConflictError(f"search {row.name!r} has no scored candidate: there is nothing to test; run it first")


def set_wish(connection: Connection, name: str, wish: DesiredState, now: float) -> None:
    """Run, pause or cancel a search. Raises `NotFoundError`, `ConflictError`."""
    hold_searches(connection, select(search.c.id).where(search.c.name == name))
    row = get_search(connection, name)
    if row.wish == DesiredState.CANCELLED:
        raise ConflictError(f"search {name!r} was cancelled, which is final; create it again under another name")
    if row.finished_at is not None:
        raise ConflictError(f"search {name!r} has finished; `search extend` gives it more to do")
    connection.execute(update(search).where(search.c.id == row.id).values(wish=wish))
    transitions.record_event(connection, now, {"run": "resumed"}.get(wish, wish), row.id)
    if wish == DesiredState.CANCELLED:
        open_ = select(candidate.c.id).where(
            candidate.c.search_id == row.id, candidate.c.state.in_((CandidateState.PENDING, CandidateState.LEASED))
        )
        for candidate_id in connection.execute(open_).scalars().all():
            transitions.cancel(connection, candidate_id, now)
        settle(connection, row.id, now)
        connection.execute(update(search).where(search.c.id == row.id).values(finished_at=now))


def extend(
    connection: Connection, name: str, *, candidates: int = 0, device_hours: float = 0.0, now: float
) -> tuple[int, float | None]:
    """Give a search more candidates or device hours; reopens a finished one, and one whose quality is flat.

    The new budget: candidates, and device seconds or None where they are unlimited. Raises `NotFoundError`,
    `ConflictError`.
    """
    hold_searches(connection, select(search.c.id).where(search.c.name == name))
    row = get_search(connection, name)
    if row.wish == DesiredState.CANCELLED:
        raise ConflictError(f"search {name!r} was cancelled, which is final; create it again under another name")
    if row.kind != SearchKind.EVOLUTION:
        raise ConflictError(f"{name!r} measures what another search found: extend that one")
    if device_hours and row.budget_device_seconds is None:
        raise ConflictError(f"search {name!r} has no limit of device hours to extend; --candidates gives it more")
    if row.exhausted:
        raise ConflictError(
            f"search {name!r} found nothing new in its space any more; a larger space or wider limits need a new search"
        )
    budget = int(row.budget_candidates) + candidates
    seconds = row.budget_device_seconds and float(row.budget_device_seconds) + device_hours * 3600
    connection.execute(
        update(search)
        .where(search.c.id == row.id)
        .values(
            budget_candidates=budget,
            budget_device_seconds=seconds,
            finished_at=None,
            # Quality has as many steps again in which to rise.
            ends_at=None,
            flat_since=row.flat_since if row.ends_at is None else row.ends_at,
        )
    )
    detail = {"candidates": budget, "device_seconds": seconds}
    transitions.record_event(connection, now, "extended", row.id, detail=detail)
    breed(connection, row.id, now)
    return budget, seconds


def space_of(row: Any) -> Space:
    """The space that a search's row describes."""
    objective = row.spec["objective"]
    limits = Limits(objective["max_params"], objective["max_mult_adds"])
    return Space(macro_from_stored(row.macro), Task(**row.task), limits)


class SearchProgress:
    """A search within one transaction: its row, and the counters as this transaction moves them on."""

    __slots__ = ("born", "ends_at", "exhausted", "living", "row", "settled", "watch")

    def __init__(self, row: Any) -> None:
        self.row = row
        self.born: int = row.born
        self.settled: int = row.settled
        self.exhausted: bool = row.exhausted
        self.ends_at: int | None = row.ends_at
        self.watch = None if row.quality_mark is None else Plateau(row.quality_mark, row.flat_since)
        self.living: list[Member] | None = None

    @property
    def births_allowed(self) -> int:
        """After so many births the search ends."""
        return births_allowed(int(self.row.budget_candidates), self.ends_at)

    def may_be_born(self) -> bool:
        """Whether the next birth may be decided now."""
        row = self.row
        if self.exhausted or row.wish != DesiredState.RUN or self.born >= self.births_allowed or over_budget(row):
            return False
        return bool(self.born < row.population or self.born - row.lag + 1 <= self.settled)


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
        transitions.join_population(connection, ended.id, number)
    population = _population(connection, course, number)
    gone = select_removed(population, row.population, row.spec["evolution"]["removal"], seed=row.seed, step=number)
    if gone is not None:
        transitions.leave_population(connection, gone.candidate_id, number)
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
        transitions.record_event(connection, now, "quality_flat", row.id, detail=detail)
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
            transitions.record_event(connection, now, "space_exhausted", row.id, detail={"message": str(error)})
            course.exhausted = True
            break
        if transitions.submit(connection, row.id, birth, now) is None:
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
    spent = over_budget(row)
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
    transitions.record_event(connection, now, "finished", row.id, detail={"why": why})
    yardstick = row.spec["yardstick"]
    best = list_best(connection, row.id, yardstick["top"]) if yardstick["top"] else ()
    if best and row.kind == SearchKind.EVOLUTION:
        measured = [(one.id, one.code) for one in best]
        _insert_yardstick(connection, row, measured, yardstick["seeds"], yardstick["epochs"], now)
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


_ROW: Final = select(search).where(search.c.id == bindparam("of")).with_for_update(key_share=True)


def get_row(connection: Connection, search_id: int) -> Any:
    """A search's row as it is inside this transaction, and stays but for what this transaction does."""
    return connection.execute(_ROW, {"of": search_id}).one()
