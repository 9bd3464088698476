"""The scored births that a search's model knows: all births, or the best and the latest if there are many."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Select, bindparam, select

from eatnas_db.domain.space import Space
from eatnas_db.guidance.block_codes import BlockCodes
from eatnas_db.guidance.encoding import Code
from eatnas_db.guidance.proposals import MAX_ROWS, ScoredCode
from eatnas_db.schema.candidates import FITTEST_FIRST, candidate


class ScoredBirthRow(NamedTuple):
    """A scored birth of the record."""

    id: int
    birth: int
    code: str
    fitness: float
    rung: int


_SCORED: Final = select(
    candidate.c.id, candidate.c.birth, candidate.c.code, candidate.c.fitness, candidate.c.rung
).where(candidate.c.search_id == bindparam("search_id"), candidate.c.fitness.is_not(None))
SELECT_LATEST: Final = (
    _SCORED.where(candidate.c.birth < bindparam("before")).order_by(candidate.c.birth.desc()).limit(MAX_ROWS)
)
SELECT_BEST: Final = (
    # The sum keeps query planners from using the index on births, with which they would read and sort all births.
    _SCORED.where(candidate.c.birth + 0 < bindparam("before")).order_by(*FITTEST_FIRST).limit(MAX_ROWS // 2)
)


def list_scored(connection: Connection, search_id: int, before: int) -> tuple[ScoredBirthRow, ...]:
    """Return the scored births with a number below `before`: all, or the best and the latest if there are many."""
    latest = _read(connection, SELECT_LATEST, search_id, before)
    if len(latest) == MAX_ROWS:
        latest = latest[: MAX_ROWS // 2]
        latest += _read(connection, SELECT_BEST, search_id, latest[-1].birth)
    return tuple(sorted(latest, key=lambda row: row.birth))


def encode_rows(space: Space, rows: Sequence[ScoredBirthRow]) -> list[ScoredCode]:
    """Return scored births with their codes for the model."""
    return [ScoredCode(row.birth, encode_architecture(space, row.code), row.fitness, row.rung) for row in rows]


@lru_cache(maxsize=10_000)
def encode_architecture(space: Space, code: str) -> Code:
    """Return an architecture in readable notation as a code for the model."""
    return BlockCodes(space).encode(space.parse(code))


def _read(connection: Connection, query: Select[Any], search_id: int, before: int) -> list[ScoredBirthRow]:
    return [ScoredBirthRow._make(row) for row in connection.execute(query, {"search_id": search_id, "before": before})]
