"""Guided searches on a table that learn from the scores of searches on other tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eatnas_db.domain.evolution import GUIDED_MIN_SCORES, count_model_births
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.guidance.gaussian_process import ProcessModel
from eatnas_db.guidance.proposals import ScoredCode, count_fitted_births, fit_model, fit_source, propose
from tables.methods import POPULATION, Evolution, Guided, limit_rows, sample_new
from tables.tables import Code, Table


def run_source(table: Table, seed: int, *, trainings: int, lag: int) -> list[ScoredCode]:
    """Return the scored births of a guided search."""
    method, column = Guided(table, seed, lag), seed % table.scores.shape[1]
    rows: list[ScoredCode] = []
    for birth in range(trainings):
        visible = rows[: max(0, birth - lag + 1)]
        code = method.choose([row.code for row in rows], [row.score for row in visible])
        rows.append(ScoredCode(birth, code, float(table.scores[table.row_of[code], column])))
    return rows


class GuidedTransfer:
    """The guided births of a search with `transfer.start: model` and one source."""

    def __init__(self, table: Table, seed: int, lag: int, source: Sequence[ScoredCode]) -> None:
        self._table, self._seed = table, seed
        self._evolution = Evolution(table, seed, lag)
        self._models: dict[int, ProcessModel] = {}
        self._sources = [fit_source(table.encoding, source)]
        starts, random = count_model_births(POPULATION, lag)
        best = sorted(source, key=lambda row: (-row.score, row.birth))
        self._starts = [row.code for row in best[:starts]]
        self._initial = starts + random

    def choose(self, codes: Sequence[Code], scores: Sequence[float]) -> Code:
        """Return one of the best codes of the source, a random code, or the proposal of the model."""
        birth, held = len(codes), set(codes)
        if birth < len(self._starts):
            return self._starts[birth]
        if birth < self._initial or not scores:
            return sample_new(self._table, self._seed, codes)
        rows = [ScoredCode(number, codes[number], score) for number, score in enumerate(scores)]
        proposal = propose(
            self._table,
            self._model(rows),
            limit_rows(rows),
            codes[len(scores) :],
            KeyedRng(self._seed, "proposal", birth),
            lambda code: code not in held,
            self._sources,
        )
        return self._evolution.choose(codes, scores) if proposal is None else proposal.code

    def _model(self, rows: list[ScoredCode]) -> ProcessModel:
        size = count_fitted_births(len(rows)) if len(rows) >= GUIDED_MIN_SCORES else 0
        if size not in self._models:
            self._models[size] = fit_model(self._table.encoding, limit_rows(rows[:size]), size, self._sources)
        return self._models[size]


def shuffle_scores(table: Table, seed: int) -> Table:
    """Return the table with its scores in random order, which makes it a source without information."""
    order = np.random.default_rng(seed).permutation(len(table.scores))
    return table.with_scores(table.scores[order])


def negate_scores(table: Table) -> Table:
    """Return the table with negated scores, which makes it a source that prefers the worst networks."""
    return table.with_scores(-table.scores)
