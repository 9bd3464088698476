"""The basic architecture of a search: which candidate it is, and how it looks on another task."""

from __future__ import annotations

from sqlalchemy import Connection, select

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec
from eatnas_db.domain.transfer import stretch
from eatnas_db.errors import ConflictError, NotFoundError, SpaceExhaustedError
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.schema.candidates import candidate


def express_basic(before: Architecture, what: str, spec: SearchSpec, space: Space) -> Architecture:
    """A basic architecture on the new task. Raises `ConflictError` or `SpaceExhaustedError` where it cannot be."""
    require_blocks(before, what, space)
    wanted = spec.transfer.stretch_to
    basic = before if wanted is None else stretch(before, space, wanted, spec.transfer.stretch)
    cost = space.propose(basic).cost
    if not space.limits.allow(cost):
        other = "take transfer.start: perturbations and " if spec.transfer.start == "survivors" else ""
        raise SpaceExhaustedError(
            f"the basic architecture has {cost.params:,} parameters and {cost.mult_adds:,} mult-adds on this task, "
            f"over the objective's limits; raise them, or {other}let transfer.stretch_to bring it below"
        )
    return basic


def require_blocks(architecture: Architecture, what: str, space: Space) -> None:
    """Raise `ConflictError` where the architecture and the space differ in their number of blocks."""
    if len(architecture.blocks) != len(space.macro.base):
        raise ConflictError(
            f"{what} has {len(architecture.blocks)} blocks and space {space.macro.name} has {len(space.macro.base)}: "
            "it cannot be built there"
        )


def require_population(row: SearchRecord) -> None:
    """Raise `SpaceExhaustedError` where the limits leave no room for the whole initial population."""
    if row.exhausted:
        raise SpaceExhaustedError(
            f"only {row.born} of {row.population} members of the initial population fit under the objective's limits "
            "around the basic architecture; raise transfer.blocks or the limits, or take a smaller population"
        )


def choose_basic(connection: Connection, source: SearchRecord, candidate_id: int | None) -> tuple[int, str, str]:
    """The candidate that a transfer begins with: its id, its code, and by what it was chosen."""
    if candidate_id is not None:
        given = select(candidate.c.code).where(candidate.c.id == candidate_id, candidate.c.search_id == source.id)
        code = connection.execute(given).scalar()
        if code is None:
            raise NotFoundError(
                f"search {source.name!r} has no candidate {candidate_id}; see `eatnas-db query best {source.name}`"
            )
        return candidate_id, str(code), "as was asked for"
    winner = get_best(connection, source.id)
    if winner is None:
        raise ConflictError(
            f"search {source.name!r} has no scored candidate: there is nothing to transfer; run it first"
        )
    if winner.yardstick is None:
        return winner.id, winner.code, "its best by fitness alone, which no yardstick has measured"
    seeds = f"{winner.yardstick_seeds} seed{'' if winner.yardstick_seeds == 1 else 's'}"
    return winner.id, winner.code, f"its best by the yardstick, {winner.yardstick:.4f} over {seeds}"
