"""Compute the fingerprint of a search: searches with equal results have equal fingerprints.

Attempts, ids, times, hosts and devices do not change the fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, Table, select

from eatnas_db.domain.rungs import rungs_of
from eatnas_db.domain.states import CandidateState
from eatnas_db.schema.candidates import architecture, candidate, mutation
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import epoch, provenance, rung, score

_BATCH: Final = 1000
"""The number of rows that are fetched at a time."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The SHA-256 of a search's results in hexadecimal digits, and the number of candidates that it covers."""

    sha256: str
    candidates: int


class _RowsByBirth:
    """The rows of a table, grouped by candidate in order of birth; they are read in step with the candidates."""

    def __init__(self, connection: Connection, query: Select[Any]) -> None:
        rows = connection.execute(query).yield_per(_BATCH)
        self._groups = groupby(rows, key=lambda row: row[0])
        self._birth, self._rows = self._next_group()

    def of(self, birth: int) -> list[list[Any]]:
        """Return the rows of one candidate. Successive calls must pass births in ascending order."""
        if self._birth != birth:
            return []
        rows = [list(row[1:]) for row in self._rows]
        self._birth, self._rows = self._next_group()
        return rows

    def _next_group(self) -> tuple[int | None, Iterator[Any]]:
        return next(self._groups, (None, iter(())))


def get_fingerprint(connection: Connection, search_id: int) -> Fingerprint:
    """Return the fingerprint of the current results of a search, which may be unfinished."""
    seed, spec = connection.execute(select(search.c.seed, search.c.spec).where(search.c.id == search_id)).one()
    queries = [_select_mutations(search_id), _select_epochs(search_id), _select_scores(search_id)]
    if rungs_of(spec) is not None:
        queries.append(_select_rungs(search_id))
    tables = [_RowsByBirth(connection, query) for query in queries]
    sha256 = hashlib.sha256(_to_line(["eatnas-db 1", seed]))
    count = 0
    for row in connection.execute(_select_candidates(search_id)).yield_per(_BATCH):
        mutations, epochs, scores, *rungs = (table.of(row.birth) for table in tables)
        # Leave out further metrics that are missing: only a user's own training function reports them.
        epochs = [values if values[-1] is not None else values[:-1] for values in epochs]
        # Scores are sorted in Python because databases order text by different rules.
        sha256.update(_to_line([*row, mutations, epochs, sorted(scores, key=lambda values: values[:2]), *rungs]))
        count += 1
    return Fingerprint(sha256.hexdigest(), count)


def _select_candidates(search_id: int) -> Select[Any]:
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


def _select_mutations(search_id: int) -> Select[Any]:
    columns = (mutation.c.block, mutation.c.primitive, mutation.c.before, mutation.c.after)
    return _select_by_birth(search_id, mutation, *columns).order_by(candidate.c.birth, mutation.c.ordinal)


def _select_epochs(search_id: int) -> Select[Any]:
    columns = (
        epoch.c.number,
        epoch.c.train_loss,
        epoch.c.train_accuracy,
        epoch.c.val_loss,
        epoch.c.val_accuracy,
        epoch.c.learning_rate,
        epoch.c.metrics,
    )
    # The epochs of a cancelled candidate depend on the time of the cancellation, so leave them out.
    kept = _select_by_birth(search_id, epoch, *columns).where(candidate.c.state != CandidateState.CANCELLED)
    return kept.order_by(candidate.c.birth, epoch.c.number)


def _select_scores(search_id: int) -> Select[Any]:
    columns = (score.c.metric, score.c.seed, score.c.value, provenance.c.recipe, provenance.c.data_digest)
    query = _select_by_birth(search_id, score, *columns)
    return query.join(provenance, provenance.c.id == score.c.provenance_id).order_by(candidate.c.birth)


def _select_rungs(search_id: int) -> Select[Any]:
    columns = (rung.c.number, rung.c.epochs, rung.c.fitness, rung.c.promoted)
    # The rungs of a cancelled candidate depend on the time of the cancellation, so leave them out.
    kept = _select_by_birth(search_id, rung, *columns).where(candidate.c.state != CandidateState.CANCELLED)
    return kept.order_by(candidate.c.birth, rung.c.number)


def _select_by_birth(search_id: int, table: Table, *columns: ColumnElement[Any]) -> Select[Any]:
    return (
        select(candidate.c.birth, *columns)
        .select_from(candidate)
        .join(table, table.c.candidate_id == candidate.c.id)
        .where(candidate.c.search_id == search_id)
    )


def _to_line(values: list[Any]) -> bytes:
    return json.dumps(_to_exact_json(values), sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _to_exact_json(value: Any) -> Any:
    """Convert floats to hexadecimal strings, so that every bit counts."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {key: _to_exact_json(inner) for key, inner in value.items()}
    return [_to_exact_json(inner) for inner in value] if isinstance(value, list | tuple) else value
