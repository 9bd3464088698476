"""Decide guided births before the transaction that inserts them.

The transaction checks that the data that decided these births have not changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from sqlalchemy import Engine, bindparam, select

from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.evolution import Birth
from eatnas_db.domain.space import DigestLookup
from eatnas_db.queries.searches import SearchRecord, fetch_searches
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance_state import AdvanceState
from eatnas_db.searches.birth_digests import digest_lookup
from eatnas_db.searches.search_space import space_of

if TYPE_CHECKING:
    from eatnas_db.guided_births import GuidedInputs

MAX_PREPARED: Final = 8
"""The maximum number of births of one search that are decided before the first of them is inserted."""

_SELECT_SEARCH: Final = select(search).where(search.c.id == bindparam("search_id"))


class PreparedBirth(NamedTuple):
    """A guided birth and the data that decided it. The birth is None if evolution should decide."""

    inputs: GuidedInputs
    birth: Birth | None


class PreparedBirths(Protocol):
    """The births that were decided before a transaction."""

    def take(self, search_id: int, number: int) -> PreparedBirth | None:
        """Return a decided birth of a search, or None if the birth is not decided yet; a later transaction then inserts
        it.
        """
        ...

    def discard(self, search_id: int) -> None:
        """Request a new decision about the births of a search, because the record has changed."""
        ...


class LeftToDaemon:
    """The prepared births of a command: a command prepares none, and leaves births that need the model to a daemon."""

    def take(self, search_id: int, number: int) -> None:
        """Return None, because no birth was decided."""

    def discard(self, search_id: int) -> None:
        """Do nothing, because no birth was decided."""


def prepare_births(engine: Engine, search_id: int) -> tuple[PreparedBirth, ...]:
    """Decide the next guided births of a search, and write nothing.

    No transaction is open while the model is computed. Settled births and codes never change, so separate reads give
    the same results as one snapshot. The search may end between two reads; the transaction that inserts the births
    detects this.
    """
    # Import the model only here, because it loads SciPy.
    from eatnas_db.guided_births import decide_guided_birth, read_inputs

    with read_transaction(engine) as connection:
        records = fetch_searches(connection, _SELECT_SEARCH, search_id=search_id)
    prepared: list[PreparedBirth] = []
    undecided: list[Birth] = []
    for record in records:
        state, space = AdvanceState.of(record), space_of(record)
        while state.needs_model and len(prepared) < MAX_PREPARED:
            with read_transaction(engine) as connection:
                inputs = read_inputs(connection, record, state.born, undecided)
            with _lazy_lookup(engine, record, undecided) as is_held:
                birth = decide_guided_birth(record, space, inputs, is_held)
            prepared.append(PreparedBirth(inputs, birth))
            if birth is None:
                break
            undecided.append(birth)
            state.born += 1
    return tuple(prepared)


@contextmanager
def _lazy_lookup(engine: Engine, record: SearchRecord, undecided: Sequence[Birth]) -> Iterator[DigestLookup]:
    """Return a function that checks whether an earlier birth has the network with the given digest.

    The first call opens a read transaction. By then, the model is computed, and only its best proposals are looked up.
    """
    digests = {birth.proposal.digest for birth in undecided}
    stored: DigestLookup | None = None
    with ExitStack() as stack:

        def is_held(digest: str) -> bool:
            nonlocal stored
            if stored is None:
                connection = stack.enter_context(read_transaction(engine))
                stored = digest_lookup(connection, record.id, record.born)
            return digest in digests or stored(digest)

        yield is_held
