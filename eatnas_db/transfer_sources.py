"""Store and read the sources of a search with `transfer.start: model`: their scores and models.

A source is fixed when the search is created, because its settled births never change. This module loads SciPy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from sqlalchemy import Connection, insert, select

from eatnas_db.domain.space import Space
from eatnas_db.guidance.blas_threads import one_thread
from eatnas_db.guidance.block_codes import BlockCodes
from eatnas_db.guidance.gaussian_process import Kernel, ProcessModel
from eatnas_db.guidance.proposals import fit_source
from eatnas_db.guidance.sources import SourceModel
from eatnas_db.queries.searches import measure_device_seconds
from eatnas_db.schema.searches import transfer_source
from eatnas_db.scored_births import ScoredBirthRow, encode_rows, list_scored


class SourceScores(NamedTuple):
    """The scored births of a source, and the kernel and the noise of its model."""

    source_id: int
    rows: tuple[ScoredBirthRow, ...]
    model: ProcessModel


class FittedSource(NamedTuple):
    """The scores of a source among its first `births` births, with the model that is fitted to them."""

    births: int
    source: SourceScores


class StoredSource(NamedTuple):
    """A row of `transfer_source`."""

    source_id: int
    births: int
    scores: int
    digest: str
    kernel: list[float]
    noise: float


_SELECT_SOURCES: Final = select(*(transfer_source.c[name] for name in StoredSource._fields)).order_by(
    transfer_source.c.position
)


def fit_scores(source_id: int, births: int, rows: tuple[ScoredBirthRow, ...], space: Space) -> FittedSource:
    """Fit the model of a source in the space of another search; `rows` are the scored births among the source's first
    `births`.
    """
    with one_thread():
        model = fit_source(BlockCodes(space).encoding, encode_rows(space, rows)).posterior.model
    return FittedSource(births, SourceScores(source_id, rows, model))


def is_current(connection: Connection, fitted: FittedSource) -> bool:
    """Return whether the record still holds the scores to which a model was fitted."""
    return list_scored(connection, fitted.source.source_id, fitted.births) == fitted.source.rows


def store_sources(connection: Connection, search_id: int, sources: Sequence[FittedSource]) -> None:
    """Store the sources of a new search."""
    values = [
        {
            "search_id": search_id,
            "position": position,
            "source_id": source.source_id,
            "births": births,
            "scores": len(source.rows),
            "digest": digest_of(source.rows),
            "kernel": list(source.model.kernel),
            "noise": source.model.noise,
            "device_seconds": measure_device_seconds(connection, source.source_id),
        }
        for position, (births, source) in enumerate(sources)
    ]
    connection.execute(insert(transfer_source), values)


def list_stored_sources(connection: Connection, search_id: int) -> list[StoredSource]:
    """Return the sources of a search in the order of their positions."""
    query = _SELECT_SOURCES.where(transfer_source.c.search_id == search_id)
    return [StoredSource._make(row) for row in connection.execute(query)]


def read_sources(connection: Connection, search_id: int) -> tuple[SourceScores, ...]:
    """Return the scores of a search's sources, in the order of the sources."""
    return tuple(_read_source(connection, stored) for stored in list_stored_sources(connection, search_id))


def digest_of(rows: Sequence[ScoredBirthRow]) -> str:
    """Return the SHA-256 of scored births. The digest covers their numbers, codes, scores and rungs, but not their
    ids.
    """
    lines = [[row.birth, row.code, float(row.fitness).hex(), row.rung] for row in rows]
    return hashlib.sha256(json.dumps(lines, separators=(",", ":")).encode()).hexdigest()


@lru_cache(maxsize=64)
def source_model(space: Space, source: SourceScores) -> SourceModel:
    """Return the model of a source, in the space of the search that uses it."""
    return fit_source(BlockCodes(space).encoding, encode_rows(space, source.rows), source.model)


_known: dict[tuple[int, str, ProcessModel], SourceScores] = {}
"""A cache of the sources that this process has read. Each birth needs all sources, and sources never change.

Searches with the same source may have different models of this source, because the rounding of a processor can decide
between nearly equal likelihoods.
"""
_MAX_KNOWN: Final = 64


def _read_source(connection: Connection, stored: StoredSource) -> SourceScores:
    model = ProcessModel(Kernel(*stored.kernel), stored.noise)
    key = (stored.source_id, stored.digest, model)
    if (known := _known.get(key)) is not None:
        return known
    rows = list_scored(connection, stored.source_id, stored.births)
    source = SourceScores(stored.source_id, rows, model)
    if digest_of(rows) == stored.digest:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[key] = source
    return source
