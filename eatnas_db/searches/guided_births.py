"""Decide births by the model of the scores so far. The model is loaded only where such a birth is decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Select, bindparam, select

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.evolution import Birth, BirthPrediction
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Proposal, Space, list_changes
from eatnas_db.domain.states import Origin
from eatnas_db.guidance.block_codes import BlockCodes
from eatnas_db.guidance.encoding import Code
from eatnas_db.guidance.process import Kernel, ProcessModel
from eatnas_db.guidance.proposals import (
    MAX_ROWS,
    ScoredCode,
    fit_model,
    model_rows,
    propose,
)
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.schema.candidates import candidate, prediction


class _ScoredRow(NamedTuple):
    id: int
    birth: int
    code: str
    fitness: float


_SCORED: Final = select(candidate.c.id, candidate.c.birth, candidate.c.code, candidate.c.fitness).where(
    candidate.c.search_id == bindparam("search_id"),
    candidate.c.birth < bindparam("before"),
    candidate.c.fitness.is_not(None),
)
_LATEST: Final = _SCORED.order_by(candidate.c.birth.desc()).limit(MAX_ROWS)
_BEST: Final = _SCORED.order_by(candidate.c.fitness.desc(), candidate.c.birth).limit(MAX_ROWS // 2)
_PENDING: Final = select(candidate.c.code).where(
    candidate.c.search_id == bindparam("search_id"),
    candidate.c.birth >= bindparam("first"),
    candidate.c.birth < bindparam("before"),
)
_LAST_MODEL: Final = (
    select(prediction.c.model_births, prediction.c.kernel, prediction.c.noise)
    .join(candidate, candidate.c.id == prediction.c.candidate_id)
    .where(candidate.c.search_id == bindparam("search_id"), candidate.c.birth < bindparam("before"))
    .order_by(candidate.c.birth.desc())
    .limit(1)
)


def decide_guided_birth(
    connection: Connection, record: SearchRecord, number: int, space: Space, is_held: Callable[[str], bool]
) -> Birth | None:
    """Decide birth `number` by the births settled up to `number` - lag, or return None if evolution should.

    It depends on the record alone: a birth that is decided again is the same.
    """
    visible = number - record.lag + 1
    codes = BlockCodes(space)
    rows = _list_scored(connection, record.id, visible)
    model = _get_model(connection, record.id, number, model_rows(visible), space)
    if model is None:
        return None
    window = {"search_id": record.id, "first": visible, "before": number}
    pending = [_encode(space, code) for code in connection.execute(_PENDING, window).scalars()]
    proposals: dict[Code, Proposal] = {}

    def accepts(code: Code) -> bool:
        proposals[code] = proposal = space.propose(codes.decode(code))
        return space.limits.allow(proposal.cost) and not is_held(proposal.digest)

    guided = propose(
        codes,
        model,
        _encode_rows(space, rows),
        pending,
        KeyedRng(record.seed, "proposal", number),
        accepts,
    )
    if guided is None:
        return None
    parent = next((row for row in rows if row.birth == guided.parent_birth), None)
    return _make_birth(number, proposals[guided.code], parent, guided.prediction)


def _list_scored(connection: Connection, search_id: int, before: int) -> list[_ScoredRow]:
    """Return the scored births before `before`: all, or the best and the latest ones if there are many."""
    latest = _read(connection, _LATEST, search_id, before)
    if len(latest) == MAX_ROWS:
        latest = latest[: MAX_ROWS // 2]
        latest += _read(connection, _BEST, search_id, latest[-1].birth)
    return sorted(latest, key=lambda row: row.birth)


def _read(connection: Connection, query: Select[Any], search_id: int, before: int) -> list[_ScoredRow]:
    return [_ScoredRow._make(row) for row in connection.execute(query, {"search_id": search_id, "before": before})]


def _get_model(
    connection: Connection, search_id: int, number: int, model_births: int, space: Space
) -> ProcessModel | None:
    """Return the model chosen by the first `model_births` births: that of the last prediction if it is the same."""
    row = connection.execute(_LAST_MODEL, {"search_id": search_id, "before": number}).first()
    if row is not None and row.model_births == model_births:
        return ProcessModel(Kernel(*row.kernel), row.noise, model_births)
    rows = _encode_rows(space, _list_scored(connection, search_id, model_births))
    return fit_model(BlockCodes(space).encoding, rows, model_births) if rows else None


def _encode_rows(space: Space, rows: list[_ScoredRow]) -> list[ScoredCode]:
    return [ScoredCode(row.birth, _encode(space, row.code), row.fitness) for row in rows]


@lru_cache(maxsize=10_000)
def _encode(space: Space, code: str) -> Code:
    return BlockCodes(space).encode(Architecture.parse(code))


def _make_birth(number: int, proposal: Proposal, parent: _ScoredRow | None, predicted: BirthPrediction) -> Birth:
    if parent is None:
        return Birth(number, Origin.RANDOM, proposal, prediction=predicted)
    changes = list_changes(Architecture.parse(parent.code), proposal.architecture)
    return Birth(number, Origin.MUTATION, replace(proposal, changes=changes), parent.id, prediction=predicted)
