"""The births of a search on a table, decided without a record by the functions that searches in a record use."""

from __future__ import annotations

from collections.abc import Sequence

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.evolution import (
    GUIDED_MIN_SCORES,
    GUIDED_RANDOM_BIRTHS,
    Member,
    decide_birth,
    select_removed,
)
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Proposal, Space
from eatnas_db.guidance.block_codes import BlockCodes
from eatnas_db.guidance.encoding import Reals
from eatnas_db.guidance.gaussian_process import ProcessModel
from eatnas_db.guidance.predicted_seconds import predict_seconds
from eatnas_db.guidance.proposals import ScoredCode, count_fitted_births, fit_model, propose
from tables.methods import POPULATION, TOURNAMENT, limit_rows
from tables.spaces import CELL_TASK, MAX_PARAMS, architecture_of, code_of, space_of
from tables.tables import Code, Table


class SpaceEvolution:
    """Evolution in the space of a table, with the decisions of a search in a record."""

    removal = "oldest"

    def __init__(self, table: Table, seed: int, lag: int) -> None:
        self._seed = seed
        self._space = Space(space_of(table), CELL_TASK, Limits(max_params=MAX_PARAMS))
        self._born: list[Architecture] = []
        self._held: set[str] = set()

    def choose(self, codes: Sequence[Code], scores: Sequence[float]) -> Code:
        """Return the code of the next birth."""
        proposal = self._propose(scores)
        self._born.append(proposal.architecture)
        self._held.add(proposal.digest)
        return code_of(proposal.architecture)

    def mult_adds(self, codes: Sequence[Code]) -> list[int]:
        """Return the mult-adds of codes of the table."""
        return [self._mult_adds(architecture_of(self._space.macro, code)) for code in codes]

    def _mult_adds(self, architecture: Architecture) -> int:
        return self._space.macro.measure(architecture, self._space.task)[0].mult_adds

    def _propose(self, scores: Sequence[float]) -> Proposal:
        return decide_birth(
            len(self._born),
            seed=self._seed,
            population_size=POPULATION,
            tournament_size=TOURNAMENT,
            population=self._population(scores),
            space=self._space,
            is_held=self._held.__contains__,
        ).proposal

    def _population(self, scores: Sequence[float]) -> list[Member]:
        members: list[Member] = []
        for birth, score in enumerate(scores):
            members.append(self._member(birth, score))
            removed = select_removed(members, POPULATION, self.removal, seed=self._seed, step=birth + 1)
            if removed is not None:
                members.remove(removed)
        return members

    def _member(self, birth: int, score: float) -> Member:
        return Member(birth, birth, birth + 1, score, str(self._born[birth]))


class SpaceGuided(SpaceEvolution):
    """Guided births in the space of a table, with the decisions of a search in a record."""

    def __init__(self, table: Table, seed: int, lag: int, *, per_second: bool = False) -> None:
        super().__init__(table, seed, lag)
        self._per_second = per_second
        self._codes = BlockCodes(self._space)
        self._models: dict[int, ProcessModel] = {}

    def _propose(self, scores: Sequence[float]) -> Proposal:
        birth, visible = len(self._born), len(scores)
        if birth < min(POPULATION, GUIDED_RANDOM_BIRTHS) or visible < GUIDED_MIN_SCORES:
            return super()._propose(scores)
        codes = [self._codes.encode(architecture) for architecture in self._born]
        rows = [ScoredCode(number, codes[number], score) for number, score in enumerate(scores)]
        size = count_fitted_births(visible)
        if size not in self._models:
            self._models[size] = fit_model(self._codes.encoding, limit_rows(rows[:size]), size)
        proposal = propose(
            self._codes,
            self._models[size],
            limit_rows(rows),
            codes[visible:],
            KeyedRng(self._seed, "proposal", birth),
            self._accepts,
            seconds=(lambda codes: self._predict_seconds(codes, rows)) if self._per_second else None,
        )
        if proposal is None:
            return super()._propose(scores)
        return self._space.propose(self._codes.decode(proposal.code))

    def _predict_seconds(self, codes: Sequence[Code], rows: Sequence[ScoredCode]) -> Reals:
        scored = [self._mult_adds(self._codes.decode(row.code)) for row in limit_rows(list(rows))]
        return predict_seconds([self._mult_adds(self._codes.decode(code)) for code in codes], scored)

    def _accepts(self, code: Code) -> bool:
        proposal = self._space.propose(self._codes.decode(code))
        return self._space.limits.allow(proposal.cost) and proposal.digest not in self._held
