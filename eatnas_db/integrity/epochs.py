"""Check the epochs of every candidate against its recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Engine, func, select

from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.recipe import inherits_weights, recipe_of
from eatnas_db.domain.rungs import rungs_of
from eatnas_db.domain.states import CandidateState, SearchKind
from eatnas_db.errors import DamagedRecordError
from eatnas_db.integrity.violations import Violation, summarize_offenders
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import epoch

_BATCH: Final = 5000
"""The number of rows fetched at a time."""


class _EpochCount(NamedTuple):
    candidate_id: int
    search_id: int
    origin: str
    parent_id: int | None
    state: str
    rung: int
    made: int
    first: int | None
    last: int | None


def check_epochs(engine: Engine) -> list[Violation]:
    """Check that epochs have no gaps, and that a scored candidate has all epochs of its recipe or of its last rung."""
    with read_transaction(engine) as connection:
        trained = search.c.kind != SearchKind.IMPORTED
        specs = {row.id: row.spec for row in connection.execute(select(search.c.id, search.c.spec).where(trained))}
        offenders = [
            row.candidate_id for row in _count_epochs(connection) if not _complete(row, specs.get(row.search_id))
        ]
    rule = "epochs are numbered without gaps from 0, and a scored candidate has all epochs of its recipe"
    return summarize_offenders(rule, "candidates", offenders)


def _count_epochs(connection: Connection) -> Iterator[_EpochCount]:
    query = (
        select(
            candidate.c.id,
            candidate.c.search_id,
            candidate.c.origin,
            candidate.c.parent_id,
            candidate.c.state,
            candidate.c.rung,
            func.count(epoch.c.number),
            func.min(epoch.c.number),
            func.max(epoch.c.number),
        )
        .outerjoin(epoch, epoch.c.candidate_id == candidate.c.id)
        .group_by(candidate.c.id)
        .order_by(candidate.c.id)
    )
    for row in connection.execute(query).yield_per(_BATCH):
        yield _EpochCount(*row)


def _complete(row: _EpochCount, spec: Mapping[str, Any] | None) -> bool:
    if spec is None:  # the candidate's score was imported
        return row.made == 0
    gapless = row.made == 0 or (row.first, row.last) == (0, row.made - 1)
    return gapless and (row.state != CandidateState.SCORED or row.made == _epochs_of_recipe(row, spec))


def _epochs_of_recipe(row: _EpochCount, spec: Mapping[str, Any]) -> int:
    try:
        rungs = rungs_of(spec, row.origin)
        if rungs is not None:
            return rungs.epochs[row.rung]
        inheriting = inherits_weights(spec, origin=row.origin, parent_id=row.parent_id)
        return int(recipe_of(spec, inheriting=inheriting)["epochs"])
    except (DamagedRecordError, IndexError, KeyError, TypeError, ValueError):
        return row.made  # the replay reports that the spec cannot be read
