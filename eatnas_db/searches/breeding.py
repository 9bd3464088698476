"""Breed a search: decide its next births and insert them as pending candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from sqlalchemy import Connection, bindparam, select, update

from eatnas_db.candidates import MAX_BIRTHS, insert_candidates
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.evolution import Birth, InitialArchitecture, decide_birth
from eatnas_db.domain.space import DigestLookup, Space
from eatnas_db.domain.transfer import PerturbationLimits
from eatnas_db.errors import SpaceExhaustedError
from eatnas_db.events import record_event
from eatnas_db.schema.candidates import architecture, candidate
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance_state import AdvanceState
from eatnas_db.searches.population import list_members
from eatnas_db.searches.search_space import space_of


def breed(connection: Connection, state: AdvanceState, now: float) -> int:
    """Insert births until the next one cannot be decided yet, and return their number."""
    before = state.born
    while state.can_breed:
        births: list[Birth] = []
        try:
            for birth in _decide_births(connection, state):
                births.append(birth)
                state.born += 1
            insert_candidates(connection, state.search.id, births, now)
        except SpaceExhaustedError as error:
            insert_candidates(connection, state.search.id, births, now)
            connection.execute(update(search).where(search.c.id == state.search.id).values(exhausted=True))
            detail = {"message": str(error)}
            record_event(connection, now, "space_exhausted", search_id=state.search.id, detail=detail)
            state.exhausted = True
    return state.born - before


def _decide_births(connection: Connection, state: AdvanceState) -> Iterator[Birth]:
    """Yield the next births that can be inserted together; the caller counts each of them in `state.born`.

    Birth 0 alone, where it is the parent of the other initial births. Raises `SpaceExhaustedError`.
    """
    record, first = state.search, state.born
    space, is_initial = space_of(record), first < state.initial_births
    initial = _initial_architecture(connection, state) if is_initial else None
    is_stored = (_initial_digest_lookup if is_initial else digest_lookup)(connection, record.id, first)
    decided: set[str] = set()
    while state.can_breed and (state.born < state.initial_births) == is_initial and state.born - first < MAX_BIRTHS:
        if state.is_guided and not is_initial:
            # One at a time: the next birth reads this one from the record.
            yield _decide_guided_birth(connection, state, space, is_stored)
            return
        birth = _decide_birth(connection, state, space, lambda digest: digest in decided or is_stored(digest), initial)
        decided.add(birth.proposal.digest)
        yield birth
        if birth.number == 0 and record.basic_code is not None:
            return


def _decide_birth(
    connection: Connection,
    state: AdvanceState,
    space: Space,
    is_held: DigestLookup,
    initial: InitialArchitecture | None = None,
) -> Birth:
    record = state.search
    return decide_birth(
        state.born,
        seed=record.seed,
        population_size=record.population,
        tournament_size=record.spec["evolution"]["tournament"],
        population=() if state.born < record.population else list_members(connection, state, state.visible_step),
        space=space,
        is_held=is_held,
        initial=initial,
    )


def _decide_guided_birth(connection: Connection, state: AdvanceState, space: Space, is_held: DigestLookup) -> Birth:
    """Decide a birth by the model, or by evolution if the model does not."""
    # Only here, because the model loads SciPy.
    from eatnas_db.searches.guided_births import decide_guided_birth

    birth = decide_guided_birth(connection, state.search, state.born, space, is_held)
    return _decide_birth(connection, state, space, is_held) if birth is None else birth


def _initial_architecture(connection: Connection, state: AdvanceState) -> InitialArchitecture | None:
    """Return the architecture that the initial population is grown from, or None if it is random."""
    record = state.search
    if record.basic_code is None:
        return None
    first_birth = (candidate.c.search_id == record.id) & (candidate.c.birth == 0)
    is_parent = first_birth if record.basic_id is None else candidate.c.id == record.basic_id
    parent = connection.execute(select(candidate.c.id, candidate.c.code).where(is_parent)).first()
    basic = Architecture.parse(record.basic_code)
    transfer = record.spec["transfer"]
    perturbation = PerturbationLimits(transfer["blocks"], tuple(transfer["primitives"]))
    if parent is None:
        return InitialArchitecture(candidate_id=None, basic=basic, before=basic, perturbation=perturbation)
    before = Architecture.parse(parent.code)
    return InitialArchitecture(candidate_id=parent.id, basic=basic, before=before, perturbation=perturbation)


_SELECT_DIGEST: Final = (
    select(candidate.c.id)
    .join(architecture)
    .where(
        architecture.c.digest == bindparam("digest"),
        candidate.c.search_id == bindparam("search_id"),
        candidate.c.birth < bindparam("birth"),
    )
)


def _initial_digest_lookup(connection: Connection, search_id: int, birth: int) -> Callable[[str], bool]:
    """Return the same function as `digest_lookup` for initial births: it reads all births at once."""
    earlier = (candidate.c.search_id == search_id, candidate.c.birth < birth)
    query = select(architecture.c.digest).join(candidate).where(*earlier)
    return set(connection.execute(query).scalars()).__contains__


def digest_lookup(connection: Connection, search_id: int, birth: int) -> Callable[[str], bool]:
    """Return a function that returns whether a birth before `birth` has the network of a digest."""

    def is_held(digest: str) -> bool:
        parameters = {"digest": digest, "search_id": search_id, "birth": birth}
        return connection.execute(_SELECT_DIGEST, parameters).first() is not None

    return is_held
