"""Decide births by the model of the scores so far. The model is loaded only where such a birth is decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Select, bindparam, select

from eatnas_db.domain.evolution import Birth, BirthPrediction
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Proposal, Space, list_changes
from eatnas_db.domain.states import Origin
from eatnas_db.guidance.blas_threads import one_thread
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
from eatnas_db.schema.candidates import FITTEST_FIRST, candidate, prediction

MODEL_LOOKBACK: Final = 64
"""If none of this many last births has a prediction, the model is chosen again: the result is the same."""


class _ScoredRow(NamedTuple):
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
    # The sum keeps planners from using the index on births, which would read and sort the whole history.
    _SCORED.where(candidate.c.birth + 0 < bindparam("before")).order_by(*FITTEST_FIRST).limit(MAX_ROWS // 2)
)
_PENDING: Final = select(candidate.c.code).where(
    candidate.c.search_id == bindparam("search_id"),
    candidate.c.birth >= bindparam("first"),
    candidate.c.birth < bindparam("before"),
)
_LAST_MODEL: Final = (
    select(prediction.c.model_births, prediction.c.kernel, prediction.c.noise)
    .join(candidate, candidate.c.id == prediction.c.candidate_id)
    .where(
        candidate.c.search_id == bindparam("search_id"),
        candidate.c.birth < bindparam("before"),
        candidate.c.birth >= bindparam("before") - MODEL_LOOKBACK,
    )
    .order_by(candidate.c.birth.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class GuidedInputs:
    """Everything in the record that decides a guided birth: births that are settled, and codes, which never change."""

    number: int
    scored: tuple[_ScoredRow, ...]
    pending: tuple[str, ...]
    """The codes of the births before this one whose scores it must not see."""
    model: ProcessModel | tuple[_ScoredRow, ...]
    """The model of the previous birth, or the births by which it is chosen again."""


def read_inputs(
    connection: Connection, record: SearchRecord, number: int, undecided: Sequence[Birth] = ()
) -> GuidedInputs:
    """Read the data that decide birth `number`; `undecided`: the births directly before it, not in the record yet."""
    visible = number - record.lag + 1
    recorded = number - len(undecided)
    window = {"search_id": record.id, "first": visible, "before": recorded}
    pending = [*connection.execute(_PENDING, window).scalars()]
    pending += [str(birth.proposal.architecture) for birth in undecided if birth.number >= visible]
    return GuidedInputs(
        number=number,
        scored=_list_scored(connection, record.id, visible),
        pending=tuple(pending),
        model=_read_model(connection, record.id, recorded, model_rows(visible), undecided),
    )


def decide_guided_birth(
    record: SearchRecord, space: Space, inputs: GuidedInputs, is_held: Callable[[str], bool]
) -> Birth | None:
    """Decide a birth by the births settled up to its number - lag, or return None if evolution should decide.

    The result depends on the arguments alone, so a second decision gives the same birth.
    """
    codes = BlockCodes(space)
    if not inputs.model:
        return None
    if isinstance(inputs.model, ProcessModel):
        model = inputs.model
    else:
        births = model_rows(inputs.number - record.lag + 1)
        with one_thread():
            model = fit_model(codes.encoding, encode_rows(space, inputs.model), births)
    choice = GuidedChoice(record, space, inputs, is_held)
    with one_thread():
        guided = propose(codes, model, choice.rows, choice.pending, choice.rng, choice.accepts)
    if guided is None:
        return None
    parent = next((row for row in inputs.scored if row.birth == guided.parent_birth), None)
    return _make_birth(space, inputs.number, choice.proposals[guided.code], parent, guided.prediction)


class GuidedChoice:
    """The data by which the model chooses, as codes; `accepts` keeps the proposal of each code in `proposals`."""

    def __init__(
        self, record: SearchRecord, space: Space, inputs: GuidedInputs, is_held: Callable[[str], bool]
    ) -> None:
        self._space, self._codes, self._is_held = space, BlockCodes(space), is_held
        self.rows = encode_rows(space, inputs.scored)
        self.pending = [_encode(space, code) for code in inputs.pending]
        self.rng = KeyedRng(record.seed, "proposal", inputs.number)
        self.proposals: dict[Code, Proposal] = {}

    def accepts(self, code: Code) -> bool:
        """Return whether a code is within the limits, and no earlier birth has its network."""
        self.proposals[code] = proposal = self._space.propose(self._codes.decode(code))
        return self._space.limits.allow(proposal.cost) and not self._is_held(proposal.digest)


def _list_scored(connection: Connection, search_id: int, before: int) -> tuple[_ScoredRow, ...]:
    """Return the scored births before `before`: all, or the best and the latest ones if there are many."""
    latest = _read(connection, SELECT_LATEST, search_id, before)
    if len(latest) == MAX_ROWS:
        latest = latest[: MAX_ROWS // 2]
        latest += _read(connection, SELECT_BEST, search_id, latest[-1].birth)
    return tuple(sorted(latest, key=lambda row: row.birth))


def _read(connection: Connection, query: Select[Any], search_id: int, before: int) -> list[_ScoredRow]:
    return [_ScoredRow._make(row) for row in connection.execute(query, {"search_id": search_id, "before": before})]


def _read_model(
    connection: Connection, search_id: int, recorded: int, model_births: int, undecided: Sequence[Birth]
) -> ProcessModel | tuple[_ScoredRow, ...]:
    """Return the model chosen by the first `model_births` births: the model of the last prediction if it is the same.

    Otherwise return the births by which it is chosen.
    """
    last: Any = next((birth.prediction for birth in reversed(undecided) if birth.prediction is not None), None)
    if last is None:
        last = connection.execute(_LAST_MODEL, {"search_id": search_id, "before": recorded}).first()
    if last is not None and last.model_births == model_births:
        return ProcessModel(Kernel(*last.kernel), last.noise, model_births)
    return _list_scored(connection, search_id, model_births)


def encode_rows(space: Space, rows: Sequence[_ScoredRow]) -> list[ScoredCode]:
    """Return scored births with their codes for the model."""
    return [ScoredCode(row.birth, _encode(space, row.code), row.fitness, row.rung) for row in rows]


@lru_cache(maxsize=10_000)
def _encode(space: Space, code: str) -> Code:
    return BlockCodes(space).encode(space.parse(code))


def _make_birth(
    space: Space, number: int, proposal: Proposal, parent: _ScoredRow | None, predicted: BirthPrediction
) -> Birth:
    if parent is None:
        return Birth(number, Origin.RANDOM, proposal, prediction=predicted)
    changes = list_changes(space.parse(parent.code), proposal.architecture)
    return Birth(number, Origin.MUTATION, replace(proposal, changes=changes), parent.id, prediction=predicted)
