"""Breed a search: decide its next births and insert them as pending candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, bindparam, select, update

from eatnas_db.candidates import insert_candidate
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.evolution import InitialArchitecture, decide_birth
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
    if not state.can_breed:
        return 0
    record, births = state.search, 0
    space = space_of(record)
    while state.can_breed:
        is_initial = state.born < record.population
        try:
            birth = decide_birth(
                state.born,
                seed=record.seed,
                population_size=record.population,
                tournament_size=record.spec["evolution"]["tournament"],
                population=() if is_initial else list_members(connection, state, state.visible_step),
                space=space,
                is_held=_digest_lookup(connection, record.id, state.born),
                initial=_initial_architecture(connection, state) if is_initial else None,
            )
        except SpaceExhaustedError as error:
            connection.execute(update(search).where(search.c.id == record.id).values(exhausted=True))
            detail = {"message": str(error)}
            record_event(connection, now, "space_exhausted", search_id=record.id, detail=detail)
            state.exhausted = True
            break
        if insert_candidate(connection, record.id, birth, now) is None:
            break
        state.born += 1
        births += 1
    return births


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


def _digest_lookup(connection: Connection, search_id: int, birth: int) -> Callable[[str], bool]:
    """Return a function that returns whether a birth before `birth` has the network of a digest."""

    def is_held(digest: str) -> bool:
        parameters = {"digest": digest, "search_id": search_id, "birth": birth}
        return connection.execute(_SELECT_DIGEST, parameters).first() is not None

    return is_held
