"""Parse ids of candidates, and look them up in the record."""

from __future__ import annotations

from sqlalchemy import Connection, select

from eatnas_db.domain.integers import MAX_BIGINT
from eatnas_db.errors import NotFoundError
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search


def parse_candidate_id(name_or_id: str) -> int | None:
    """Return the id of a candidate if the argument has only digits, and None if it is the name of a search.

    The name of a search never consists of digits alone. Raises `NotFoundError` for more digits than an id can have.
    """
    if not (name_or_id.isascii() and name_or_id.isdecimal()):
        return None
    digits = name_or_id.lstrip("0") or "0"
    if len(digits) > len(str(MAX_BIGINT)):  # int() raises an error for thousands of digits
        raise NotFoundError(f"no candidate has an id of {len(digits)} digits; `eatnas-db query best NAME` lists ids")
    return int(digits)


def can_be_id(candidate_id: int) -> bool:
    """Return whether a number may be an id. Database drivers refuse numbers that no integer column can hold."""
    return 0 < candidate_id <= MAX_BIGINT


def require_candidate(connection: Connection, candidate_id: int) -> None:
    """Raise `NotFoundError` unless the record holds this candidate."""
    is_valid = can_be_id(candidate_id)
    if not is_valid or connection.execute(select(candidate.c.id).where(candidate.c.id == candidate_id)).first() is None:
        raise NotFoundError(
            f"no candidate {candidate_id}; `eatnas-db query best NAME` lists the candidates of a search with their ids"
        )


def get_search_name(connection: Connection, candidate_id: int) -> str:
    """Return the name of the search of a candidate. Raises `NotFoundError`."""
    require_candidate(connection, candidate_id)
    query = (
        select(search.c.name)
        .join(candidate, candidate.c.search_id == search.c.id)
        .where(candidate.c.id == candidate_id)
    )
    return str(connection.execute(query).scalar_one())
