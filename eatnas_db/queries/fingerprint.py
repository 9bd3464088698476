"""A search's results in one line: equal histories have equal fingerprints, whenever and wherever they ran."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, Select, Table, select

from eatnas_db.schema.candidates import architecture, candidate, mutation
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import epoch, provenance, score

_ROWS_AT_A_TIME: Final = 1000


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """SHA-256 over what a search found, and over how many candidates it was taken."""

    sha256: str
    candidates: int


class _Side:
    """The rows that belong to candidates, read beside these in the same order of births."""

    def __init__(self, connection: Connection, query: Select[Any]) -> None:
        rows = connection.execute(query).yield_per(_ROWS_AT_A_TIME)
        self._groups = groupby(rows, key=lambda row: row[0])
        self._birth, self._rows = self._next()

    def of(self, birth: int) -> list[list[Any]]:
        if self._birth != birth:
            return []
        found = [list(row[1:]) for row in self._rows]
        self._birth, self._rows = self._next()
        return found

    def _next(self) -> tuple[int | None, Iterator[Any]]:
        return next(self._groups, (None, iter(())))


def get_fingerprint(connection: Connection, search_id: int) -> Fingerprint:
    """The fingerprint of a search as it stands. No time, attempt or id goes into it."""
    seed = connection.execute(select(search.c.seed).where(search.c.id == search_id)).scalar_one()
    sides = [_Side(connection, query) for query in (_mutations(search_id), _epochs(search_id), _scores(search_id))]
    summed = hashlib.sha256(_line(["eatnas-db 1", seed]))
    count = 0
    for row in connection.execute(_candidates(search_id)).yield_per(_ROWS_AT_A_TIME):
        mutations, epochs, scores = (side.of(row.birth) for side in sides)
        # In Python, for databases collate text each in its own way.
        summed.update(_line([*row, mutations, epochs, sorted(scores, key=lambda part: part[:2])]))
        count += 1
    return Fingerprint(summed.hexdigest(), count)


def _candidates(search_id: int) -> Select[Any]:
    parent = candidate.alias("parent")
    return (
        select(
            architecture.c.digest,
            candidate.c.birth,
            parent.c.birth.label("parent_birth"),
            candidate.c.origin,
            candidate.c.state,
            candidate.c.joined,
            candidate.c.left,
        )
        .join(architecture, architecture.c.id == candidate.c.architecture_id)
        .outerjoin(parent, parent.c.id == candidate.c.parent_id)
        .where(candidate.c.search_id == search_id)
        .order_by(candidate.c.birth)
    )


def _mutations(search_id: int) -> Select[Any]:
    columns = (mutation.c.block, mutation.c.primitive, mutation.c.before, mutation.c.after)
    return _beside(search_id, mutation, *columns).order_by(candidate.c.birth, mutation.c.ordinal)


def _epochs(search_id: int) -> Select[Any]:
    columns = (
        epoch.c.number,
        epoch.c.train_loss,
        epoch.c.train_accuracy,
        epoch.c.val_loss,
        epoch.c.val_accuracy,
        epoch.c.learning_rate,
    )
    return _beside(search_id, epoch, *columns).order_by(candidate.c.birth, epoch.c.number)


def _scores(search_id: int) -> Select[Any]:
    columns = (score.c.metric, score.c.seed, score.c.value, provenance.c.recipe, provenance.c.data_digest)
    query = _beside(search_id, score, *columns).join(provenance, provenance.c.id == score.c.provenance_id)
    return query.order_by(candidate.c.birth)


def _beside(search_id: int, table: Table, *columns: Any) -> Select[Any]:
    return (
        select(candidate.c.birth, *columns)
        .select_from(candidate)
        .join(table, table.c.candidate_id == candidate.c.id)
        .where(candidate.c.search_id == search_id)
    )


def _line(values: list[Any]) -> bytes:
    return json.dumps(_exact(values), sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _exact(value: Any) -> Any:
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {key: _exact(inner) for key, inner in value.items()}
    return [_exact(inner) for inner in value] if isinstance(value, list | tuple) else value
