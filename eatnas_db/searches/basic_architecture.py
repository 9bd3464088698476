"""Choose the basic architecture among the candidates of a source search, and adapt the architecture to another task."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection, select

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.space import Space
from eatnas_db.domain.transfer import stretch
from eatnas_db.errors import ConflictError, InvalidArchitectureError, NotFoundError, SpaceExhaustedError
from eatnas_db.queries.candidate_ids import can_be_id
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.schema.candidates import candidate

if TYPE_CHECKING:  # this import loads pydantic
    from eatnas_db.domain.spec import SearchSpec


class BasicChoice(NamedTuple):
    """The candidate that a transfer starts from, and the reason why it was chosen."""

    candidate_id: int
    code: str
    reason: str


def choose_basic_candidate(connection: Connection, source: SearchRecord, candidate_id: int | None) -> BasicChoice:
    """Return the candidate `candidate_id` of a search, by default the best candidate. Raises `NotFoundError` or
    `ConflictError`.
    """
    if candidate_id is not None:
        query = select(candidate.c.code).where(candidate.c.id == candidate_id, candidate.c.search_id == source.id)
        code = connection.execute(query).scalar() if can_be_id(candidate_id) else None
        if code is None:
            raise NotFoundError(
                f"search {source.name!r} has no candidate {candidate_id}; "
                f"list its candidates with `eatnas-db query best {source.name}`"
            )
        return BasicChoice(candidate_id, str(code), "as requested")
    best = get_best(connection, source.id)
    if best is None:
        raise ConflictError(f"search {source.name!r} has no scored candidate to start from; run it first")
    front = " of the Pareto front" if source.objectives else ""
    if best.reevaluation is None:
        return BasicChoice(best.id, best.code, f"the best{front} by fitness, not measured by a re-evaluation")
    seeds = f"{best.reevaluation_seeds} seed{'' if best.reevaluation_seeds == 1 else 's'}"
    return BasicChoice(
        best.id, best.code, f"the best{front} by the re-evaluation, {best.reevaluation:.4f} over {seeds}"
    )


def adapt_architecture(before: Architecture, label: str, spec: SearchSpec, space: Space) -> Architecture:
    """Return an architecture adapted to the task of `space`: stretched if the spec says so, and otherwise unchanged.

    Error messages call the architecture `label`.

    Raises `ConflictError` if the number of blocks differs, and `SpaceExhaustedError` if the result is over the limits.
    """
    require_block_count(before, label, space)
    mult_adds = spec.transfer.stretch_to
    basic = before if mult_adds is None else stretch(before, space, mult_adds, spec.transfer.stretch)
    cost = space.propose(basic).cost
    if not space.limits.allow(cost):
        advice = "raise them, or lower transfer.stretch_to"
        if spec.transfer.start == "survivors":
            advice = "raise them, or use `transfer.start: perturbations` with a lower transfer.stretch_to"
        raise SpaceExhaustedError(
            f"the basic architecture has {cost.params:,} parameters and {cost.mult_adds:,} mult-adds on this task, "
            f"which is over the limits of the objective; {advice}"
        )
    return basic


def parse_code(code: str, label: str, space: Space) -> Architecture:
    """Return the architecture of a code. Raises `ConflictError` if the code belongs to a space other than `space`."""
    try:
        return space.parse(code)
    except InvalidArchitectureError as error:
        raise ConflictError(f"{label} is not an architecture of space {space.macro.name}: {error}") from None


def require_block_count(architecture: Architecture, label: str, space: Space) -> None:
    """Raise `ConflictError` unless the architecture has as many blocks as the space."""
    if len(architecture.blocks) != len(space.macro.blocks):
        raise ConflictError(
            f"the number of blocks is {len(architecture.blocks)} in {label} and {len(space.macro.blocks)} in space "
            f"{space.macro.name}; choose a space with the same number of blocks"
        )


def require_full_population(search: SearchRecord) -> None:
    """Raise `SpaceExhaustedError` if the limits are too tight for the whole initial population."""
    if search.exhausted:
        raise SpaceExhaustedError(
            f"found only {search.born} of {search.population} members of the initial population around the basic "
            "architecture; raise transfer.blocks or the limits of the objective, or lower evolution.population"
        )
