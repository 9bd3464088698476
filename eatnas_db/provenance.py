"""Provenance: the recipe, data, software and device behind a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, select

from eatnas_db.database.dialects import insert_or_ignore
from eatnas_db.schema.trainings import provenance


@dataclass(frozen=True, slots=True)
class Provenance:
    """Under what a score was made."""

    digest: str
    recipe: dict[str, Any]
    data_digest: str
    versions: dict[str, str]
    device: str
    cpu_capability: str


_KNOWN_PROVENANCE: Final = select(provenance.c.id).where(provenance.c.digest == bindparam("digest"))


def store_provenance(connection: Connection, circumstances: Provenance) -> int:
    """Insert a provenance that is not stored yet, and return its id."""
    known = {"digest": circumstances.digest}
    found = connection.execute(_KNOWN_PROVENANCE, known).scalar()
    if found is None:
        connection.execute(
            insert_or_ignore(provenance).values(
                digest=circumstances.digest,
                recipe=circumstances.recipe,
                data_digest=circumstances.data_digest,
                versions=circumstances.versions,
                device=circumstances.device,
                cpu_capability=circumstances.cpu_capability,
            )
        )
        found = connection.execute(_KNOWN_PROVENANCE, known).scalar_one()
    return int(found)
