"""Breed a search: decide its next births and insert them as pending candidates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select, update

from eatnas_db.candidates import MAX_BIRTHS, insert_candidates
from eatnas_db.domain.evolution import Birth, InitialArchitecture, decide_birth
from eatnas_db.domain.space import DigestLookup, Space
from eatnas_db.domain.transfer import PerturbationLimits
from eatnas_db.errors import SpaceExhaustedError
from eatnas_db.events import record_event
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance_state import AdvanceState
from eatnas_db.searches.birth_digests import digest_lookup, initial_digest_lookup
from eatnas_db.searches.population import list_members
from eatnas_db.searches.prepared_births import PreparedBirth, PreparedBirths
from eatnas_db.searches.search_space import space_of

if TYPE_CHECKING:
    from eatnas_db.guided_births import GuidedInputs


def breed(connection: Connection, state: AdvanceState, now: float, prepared: PreparedBirths | None = None) -> int:
    """Insert births until the next birth cannot be decided yet. Return their number.

    Births that need the model are taken from `prepared`, or decided here if `prepared` is None.
    """
    before = state.born
    while state.can_breed:
        births: list[Birth] = []
        try:
            for birth in _decide_births(connection, state, prepared):
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


def _decide_births(connection: Connection, state: AdvanceState, prepared: PreparedBirths | None) -> Iterator[Birth]:
    """Yield the next births that can be inserted together. The caller must count each of these births in `state.born`.

    Birth 0 is yielded alone if it is the parent of the other initial births. Raises `SpaceExhaustedError`.
    """
    record, first = state.search, state.born
    space, is_initial = space_of(record), first < state.search.initial_births
    initial = _initial_architecture(connection, state, space) if is_initial else None
    is_stored = (initial_digest_lookup if is_initial else digest_lookup)(connection, record.id, first)
    decided: set[str] = set()
    while state.can_breed and (state.born < record.initial_births) == is_initial and state.born - first < MAX_BIRTHS:
        if state.needs_model:
            # Decide one birth at a time, because the model reads all earlier births from the record.
            if state.born > first:
                return
            yield from _decide_guided_birth(connection, state, space, is_stored, prepared)
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


def _decide_guided_birth(
    connection: Connection,
    state: AdvanceState,
    space: Space,
    is_held: DigestLookup,
    prepared: PreparedBirths | None,
) -> Iterator[Birth]:
    """Yield the next birth, which the model decides or leaves to evolution.

    If `prepared` is given but lacks this birth, or the record has changed since the birth was prepared, yield nothing
    and set `state.awaits_model`. If `prepared` is None, decide the birth here.
    """
    # Import the model only here, because it loads SciPy.
    from eatnas_db.guided_births import decide_guided_birth, read_inputs

    record, number = state.search, state.born
    if prepared is None:
        birth = decide_guided_birth(record, space, read_inputs(connection, record, number), is_held)
    else:
        found = prepared.take(record.id, number)
        if found is not None and _has_changed(found, read_inputs(connection, record, number), is_held):
            prepared.discard(record.id)
            found = None
        if found is None:
            state.awaits_model = True
            return
        birth = found.birth
    yield _decide_birth(connection, state, space, is_held) if birth is None else birth


def _has_changed(found: PreparedBirth, inputs: GuidedInputs, is_held: DigestLookup) -> bool:
    """Return whether the data that decided a birth have changed in the record."""
    return found.inputs != inputs or (found.birth is not None and is_held(found.birth.proposal.digest))


def _initial_architecture(connection: Connection, state: AdvanceState, space: Space) -> InitialArchitecture | None:
    """Return the basic architecture of the initial population, or None if that population is random."""
    record = state.search
    if record.basic_code is None or record.has_sources:
        return None
    first_birth = (candidate.c.search_id == record.id) & (candidate.c.birth == 0)
    is_parent = first_birth if record.basic_id is None else candidate.c.id == record.basic_id
    parent = connection.execute(select(candidate.c.id, candidate.c.code).where(is_parent)).first()
    basic = space.parse(record.basic_code)
    transfer = record.spec["transfer"]
    perturbation = PerturbationLimits(transfer["blocks"], tuple(transfer["primitives"]))
    if parent is None:
        return InitialArchitecture(candidate_id=None, basic=basic, before=basic, perturbation=perturbation)
    before = space.parse(parent.code)
    return InitialArchitecture(candidate_id=parent.id, basic=basic, before=before, perturbation=perturbation)
