"""Decide guided births with a model of the scores so far. Only the functions that decide a birth load the code of the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, bindparam, select

from eatnas_db.domain.evolution import GUIDED_MIN_SCORES, Birth, BirthPrediction
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Proposal, Space, list_changes
from eatnas_db.domain.states import Origin
from eatnas_db.guidance.blas_threads import one_thread
from eatnas_db.guidance.block_codes import BlockCodes
from eatnas_db.guidance.encoding import Code, Reals
from eatnas_db.guidance.gaussian_process import Kernel, ProcessModel
from eatnas_db.guidance.predicted_seconds import predict_seconds
from eatnas_db.guidance.proposals import count_fitted_births, fit_model, propose
from eatnas_db.guidance.sources import SourceModel
from eatnas_db.queries.predictions import maximizes_per_second
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.schema.candidates import candidate, prediction
from eatnas_db.scored_births import ScoredBirthRow, encode_architecture, encode_rows, list_scored
from eatnas_db.transfer_sources import SourceScores, read_sources, source_model

MODEL_LOOKBACK: Final = 64
"""The number of earlier births that are searched for the last prediction.

If none of these births has a prediction, the model is chosen again, with the same result.
"""


_PENDING_CODES: Final = select(candidate.c.code).where(
    candidate.c.search_id == bindparam("search_id"),
    candidate.c.birth >= bindparam("first"),
    candidate.c.birth < bindparam("before"),
)
_LAST_MODEL: Final = (
    select(prediction.c.model_births, prediction.c.kernel, prediction.c.noise, prediction.c.slopes)
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
    """All recorded data that decide a guided birth: scores of settled births, and codes. These data never change."""

    number: int
    scored: tuple[ScoredBirthRow, ...]
    pending: tuple[str, ...]
    """The codes of earlier births whose scores this birth must not depend on."""
    model: ProcessModel | tuple[ScoredBirthRow, ...]
    """The model of the previous birth, or the scored births from which the model is chosen again."""
    sources: tuple[SourceScores, ...] = ()

    @property
    def may_decide(self) -> bool:
        """Whether the model may decide: there are enough scores to choose it, or the search has sources."""
        return bool(self.model or self.sources)

    def source_models(self, space: Space) -> list[SourceModel]:
        """Return the model of each source; `space` is the space of this search."""
        return [source_model(space, source) for source in self.sources]


def read_inputs(
    connection: Connection, record: SearchRecord, number: int, undecided: Sequence[Birth] = ()
) -> GuidedInputs:
    """Read the data that decide birth `number`.

    `undecided` are the births directly before this birth that are not recorded yet.
    """
    visible = number - record.lag + 1
    recorded = number - len(undecided)
    window = {"search_id": record.id, "first": visible, "before": recorded}
    pending = [*connection.execute(_PENDING_CODES, window).scalars()]
    pending += [str(birth.proposal.architecture) for birth in undecided if birth.number >= visible]
    return GuidedInputs(
        number=number,
        scored=list_scored(connection, record.id, visible),
        pending=tuple(pending),
        model=_read_model(connection, record.id, recorded, births_of_model(visible), undecided),
        sources=read_sources(connection, record.id) if record.has_sources else (),
    )


def births_of_model(visible: int) -> int:
    """Return how many of the first births the model is fitted to, or 0 if the model is fitted to the sources alone."""
    return count_fitted_births(visible) if visible >= GUIDED_MIN_SCORES else 0


def decide_guided_birth(
    record: SearchRecord, space: Space, inputs: GuidedInputs, is_held: Callable[[str], bool]
) -> Birth | None:
    """Decide a birth from the scores of the births up to its number minus `lag`.

    Return None if evolution should decide.

    The result depends on the arguments alone, so deciding the birth again gives the same result.
    """
    codes = BlockCodes(space)
    if not inputs.may_decide:
        return None
    choice = GuidedChoice(record, space, inputs, is_held)
    with one_thread():
        sources = inputs.source_models(space)
        if isinstance(inputs.model, ProcessModel):
            model = inputs.model
        else:
            births = births_of_model(inputs.number - record.lag + 1)
            model = fit_model(codes.encoding, encode_rows(space, inputs.model), births, sources)
        guided = propose(
            codes, model, choice.rows, choice.pending, choice.rng, choice.accepts, sources, seconds=choice.seconds
        )
    if guided is None:
        return None
    parent = next((row for row in inputs.scored if row.birth == guided.parent_birth), None)
    return _make_birth(space, inputs.number, choice.proposals[guided.code], parent, guided.prediction)


class GuidedChoice:
    """The inputs of a guided birth, converted to codes. `accepts` adds the proposal of each code to `proposals`.

    `seconds` predicts device seconds; it is None unless the search maximizes the improvement per second.
    """

    def __init__(
        self, record: SearchRecord, space: Space, inputs: GuidedInputs, is_held: Callable[[str], bool]
    ) -> None:
        self._space, self._codes, self._is_held = space, BlockCodes(space), is_held
        self.rows = encode_rows(space, inputs.scored)
        self.pending = [encode_architecture(space, code) for code in inputs.pending]
        self.rng = KeyedRng(record.seed, "proposal", inputs.number)
        self.proposals: dict[Code, Proposal] = {}
        self.seconds = self._predict_seconds if maximizes_per_second(record.spec) else None

    def accepts(self, code: Code) -> bool:
        """Return whether a code is within the limits, and no earlier birth has the same network."""
        proposal = self._propose(code)
        return self._space.limits.allow(proposal.cost) and not self._is_held(proposal.digest)

    def _predict_seconds(self, codes: Sequence[Code]) -> Reals:
        return predict_seconds(
            [self._propose(code).cost.mult_adds for code in codes],
            [self._propose(row.code).cost.mult_adds for row in self.rows],
        )

    def _propose(self, code: Code) -> Proposal:
        if code not in self.proposals:
            self.proposals[code] = self._space.propose(self._codes.decode(code))
        return self.proposals[code]


def _read_model(
    connection: Connection, search_id: int, recorded: int, model_births: int, undecided: Sequence[Birth]
) -> ProcessModel | tuple[ScoredBirthRow, ...]:
    """Return the model of the last prediction if it was fitted to the first `model_births` births.

    Otherwise return the scored births from which the caller chooses the model.
    """
    last: Any = next((birth.prediction for birth in reversed(undecided) if birth.prediction is not None), None)
    if last is None:
        last = connection.execute(_LAST_MODEL, {"search_id": search_id, "before": recorded}).first()
    if last is not None and last.model_births == model_births:
        return stored_model(last)
    return list_scored(connection, search_id, model_births)


def stored_model(row: Any) -> ProcessModel:
    """Return the model of a stored prediction."""
    return ProcessModel(Kernel(*row.kernel), row.noise, row.model_births, tuple(row.slopes or ()))


def _make_birth(
    space: Space, number: int, proposal: Proposal, parent: ScoredBirthRow | None, predicted: BirthPrediction
) -> Birth:
    if parent is None:
        return Birth(number, Origin.RANDOM, proposal, prediction=predicted)
    changes = list_changes(space.parse(parent.code), proposal.architecture)
    return Birth(number, Origin.MUTATION, replace(proposal, changes=changes), parent.id, prediction=predicted)
