"""Compare recorded guided births with the model of their search.

This module is imported only for searches with guided births.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Engine, select

from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.space import Space
from eatnas_db.guidance.blas_threads import one_thread
from eatnas_db.guidance.block_codes import BlockCodes
from eatnas_db.guidance.gaussian_process import ProcessModel
from eatnas_db.guidance.proposals import fit_model
from eatnas_db.guidance.verification import may_choose_model, may_propose
from eatnas_db.guided_births import GuidedChoice, GuidedInputs, births_of_model, read_inputs, stored_model
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.schema.candidates import prediction
from eatnas_db.scored_births import encode_rows


class RecordedBirth(NamedTuple):
    """A recorded birth."""

    id: int
    number: int
    code: str


def follows_from_model(
    engine: Engine, record: SearchRecord, space: Space, birth: RecordedBirth, is_held: Callable[[str], bool]
) -> bool:
    """Return whether the model may have decided a birth or, if the birth has no prediction, may have left it to
    evolution.
    """
    stored = select(prediction.c.model_births, prediction.c.kernel, prediction.c.noise, prediction.c.slopes)
    with read_transaction(engine) as connection:
        row = connection.execute(stored.where(prediction.c.candidate_id == birth.id)).first()
        inputs = read_inputs(connection, record, birth.number)
    with one_thread():
        if row is None:
            return _is_left_to_evolution(record, space, inputs, is_held)
        model = stored_model(row)
        return _is_chosen(record, space, inputs, model) and _may_propose(
            record, space, inputs, model, is_held, space.parse(birth.code)
        )


def _is_left_to_evolution(
    record: SearchRecord, space: Space, inputs: GuidedInputs, is_held: Callable[[str], bool]
) -> bool:
    if not inputs.may_decide:
        return True
    model = inputs.model
    if not isinstance(model, ProcessModel):
        births = births_of_model(inputs.number - record.lag + 1)
        sources = inputs.source_models(space)
        model = fit_model(BlockCodes(space).encoding, encode_rows(space, model), births, sources)
    return _may_propose(record, space, inputs, model, is_held, None)


def _is_chosen(record: SearchRecord, space: Space, inputs: GuidedInputs, model: ProcessModel) -> bool:
    """Return whether the stored model is the model of the previous birth, or may have been chosen for this birth."""
    if isinstance(inputs.model, ProcessModel):
        return inputs.model == model
    is_current = model.births == births_of_model(inputs.number - record.lag + 1)
    rows, sources = encode_rows(space, inputs.model), inputs.source_models(space)
    return is_current and may_choose_model(BlockCodes(space).encoding, rows, model, sources)


def _may_propose(
    record: SearchRecord,
    space: Space,
    inputs: GuidedInputs,
    model: ProcessModel,
    is_held: Callable[[str], bool],
    recorded: Architecture | None,
) -> bool:
    choice, codes = GuidedChoice(record, space, inputs, is_held), BlockCodes(space)
    return may_propose(
        codes,
        model,
        choice.rows,
        choice.pending,
        choice.rng,
        choice.accepts,
        None if recorded is None else lambda code: codes.decode(code) == recorded,
        inputs.source_models(space),
        seconds=choice.seconds,
    )
