"""Decide guided births before the transaction that inserts them.

The transaction compares the data that decided them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from sqlalchemy import Engine, bindparam, select

from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.evolution import Birth
from eatnas_db.domain.space import DigestLookup
from eatnas_db.queries.searches import fetch_searches
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance_state import AdvanceState
from eatnas_db.searches.birth_digests import digest_lookup
from eatnas_db.searches.search_space import space_of

if TYPE_CHECKING:
    from eatnas_db.guided_births import GuidedInputs

MAX_PREPARED: Final = 8
"""The most births of one search that are decided before the first of them is inserted."""

_SELECT_SEARCH: Final = select(search).where(search.c.id == bindparam("search_id"))


class PreparedBirth(NamedTuple):
    """A guided birth and the data that decided it. The birth is None if evolution should decide."""

    inputs: GuidedInputs
    birth: Birth | None


class PreparedBirths(Protocol):
    """The births that were decided before a transaction."""

    def take(self, search_id: int, number: int) -> PreparedBirth | None:
        """Return a birth of a search, or None if it is not decided yet. A later transaction inserts it in that case."""
        ...

    def discard(self, search_id: int) -> None:
        """Request a new decision about the births of a search, because the record has changed."""
        ...


class LeftToDaemon:
    """The prepared births of a command: none. A command leaves births that need the model to a daemon."""

    def take(self, search_id: int, number: int) -> None:
        """Return no birth."""

    def discard(self, search_id: int) -> None:
        """Do nothing: no birth was decided."""


def prepare_births(engine: Engine, search_id: int) -> tuple[PreparedBirth, ...]:
    """Decide the next guided births of a search from one snapshot of the record. Writes nothing."""
    # Import only here, because the model loads SciPy.
    from eatnas_db.guided_births import decide_guided_birth, read_inputs

    prepared: list[PreparedBirth] = []
    undecided: list[Birth] = []
    with read_transaction(engine) as connection:
        for record in fetch_searches(connection, _SELECT_SEARCH, search_id=search_id):
            state, space = AdvanceState.of(record), space_of(record)
            is_stored = digest_lookup(connection, record.id, record.born)
            while state.needs_model and len(prepared) < MAX_PREPARED:
                inputs = read_inputs(connection, record, state.born, undecided)
                birth = decide_guided_birth(record, space, inputs, _is_held(is_stored, undecided))
                prepared.append(PreparedBirth(inputs, birth))
                if birth is None:
                    break
                undecided.append(birth)
                state.born += 1
    return tuple(prepared)


def _is_held(is_stored: DigestLookup, undecided: Sequence[Birth]) -> DigestLookup:
    digests = {birth.proposal.digest for birth in undecided}
    return lambda digest: digest in digests or is_stored(digest)
