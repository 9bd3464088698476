"""Look up whether an earlier birth of a search has the same network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, bindparam, select

from eatnas_db.schema.candidates import architecture, candidate

_SELECT_DIGEST: Final = (
    select(candidate.c.id)
    .join(architecture)
    .where(
        architecture.c.digest == bindparam("digest"),
        candidate.c.search_id == bindparam("search_id"),
        candidate.c.birth < bindparam("birth"),
    )
)


def initial_digest_lookup(connection: Connection, search_id: int, birth: int) -> Callable[[str], bool]:
    """Return the same function as `digest_lookup`, for an initial birth; read all earlier births immediately."""
    earlier = (candidate.c.search_id == search_id, candidate.c.birth < birth)
    query = select(architecture.c.digest).join(candidate).where(*earlier)
    return set(connection.execute(query).scalars()).__contains__


def digest_lookup(connection: Connection, search_id: int, birth: int) -> Callable[[str], bool]:
    """Return a function that checks whether a birth before `birth` has the network with the given digest."""

    def is_held(digest: str) -> bool:
        parameters = {"digest": digest, "search_id": search_id, "birth": birth}
        return connection.execute(_SELECT_DIGEST, parameters).first() is not None

    return is_held
