"""Provenance: the recipe, data, software and device behind a score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, bindparam, select

from eatnas_db.database.dialects import insert_or_ignore
from eatnas_db.schema.hosts import MAX_DEVICE_NAME
from eatnas_db.schema.trainings import MAX_CAPABILITY_NAME, provenance


@dataclass(frozen=True, slots=True)
class Provenance:
    """The conditions of a training; `digest` identifies the combination of the other fields.

    `settings` are the environment variables of the worker that may change the bits of its results.
    """

    digest: str
    recipe: dict[str, Any]
    data_digest: str
    versions: dict[str, str]
    device: str
    cpu_capability: str
    settings: dict[str, str] = field(default_factory=dict)


_SELECT_PROVENANCE: Final = select(provenance.c.id).where(provenance.c.digest == bindparam("digest"))


def store_provenance(connection: Connection, conditions: Provenance) -> int:
    """Insert a provenance unless it is already stored, and return its id."""
    parameters = {"digest": conditions.digest}
    provenance_id = connection.execute(_SELECT_PROVENANCE, parameters).scalar()
    if provenance_id is None:
        connection.execute(
            insert_or_ignore(provenance).values(
                digest=conditions.digest,
                recipe=conditions.recipe,
                data_digest=conditions.data_digest,
                versions=conditions.versions,
                device=conditions.device[:MAX_DEVICE_NAME],
                cpu_capability=conditions.cpu_capability[:MAX_CAPABILITY_NAME],
                settings=conditions.settings,
            )
        )
        provenance_id = connection.execute(_SELECT_PROVENANCE, parameters).scalar_one()
    return int(provenance_id)
