"""Search methods on a table, in strict order: birth b sees the scores of the births up to b - lag."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from eatnas_db.domain.evolution import GUIDED_MIN_SCORES, GUIDED_RANDOM_BIRTHS, Member, run_tournament, select_removed
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.guidance.gaussian_process import ProcessModel
from eatnas_db.guidance.proposals import (
    MAX_ROWS,
    ScoredCode,
    count_fitted_births,
    fit_model,
    propose,
)
from tables.tables import Code, Table

POPULATION: Final = 12
TOURNAMENT: Final = 6


class Method(Protocol):
    """Chooses a birth from all codes so far and from the scores of the settled births, which come first."""

    def choose(self, codes: Sequence[Code], scores: Sequence[float]) -> Code:
        """Return the code of birth `len(codes)`; `scores` belong to the first `len(scores)` codes."""
        ...


def sample_new(table: Table, seed: int, codes: Sequence[Code]) -> Code:
    """Return a random code that was not born yet."""
    rng = KeyedRng(seed, "sample", len(codes))
    while (code := table.sample(rng)) in codes:
        pass
    return code


class Random:
    """Random codes."""

    def __init__(self, table: Table, seed: int, lag: int) -> None:
        self._table, self._seed = table, seed

    def choose(self, codes: Sequence[Code], scores: Sequence[float]) -> Code:
        """Return a random code."""
        return sample_new(self._table, self._seed, codes)


class Evolution:
    """The evolution of eatnas-db: tournaments in a population whose oldest members are removed."""

    def __init__(self, table: Table, seed: int, lag: int) -> None:
        self._table, self._seed = table, seed

    def choose(self, codes: Sequence[Code], scores: Sequence[float]) -> Code:
        """Return a mutant of the winner of a tournament, or a random code at first."""
        birth = len(codes)
        if birth >= POPULATION:
            members = self._population(scores)
            rng = KeyedRng(self._seed, "tournament", birth)
            while members:
                parent = run_tournament(members, TOURNAMENT, rng)
                children = [code for code in self._table.neighbours(codes[parent.birth]) if code not in codes]
                if children:
                    return KeyedRng(self._seed, "mutation", birth).choice(children)
                members.remove(parent)
        return sample_new(self._table, self._seed, codes)

    def _population(self, scores: Sequence[float]) -> list[Member]:
        members: list[Member] = []
        for birth, score in enumerate(scores):
            members.append(Member(birth, birth, birth, score, ""))
            removed = select_removed(members, POPULATION, "oldest", seed=self._seed, step=birth)
            if removed is not None:
                members.remove(removed)
        return members


class LocalSearch:
    """New neighbours of the best code, or of the next best code if all neighbours of the best were born."""

    def __init__(self, table: Table, seed: int, lag: int) -> None:
        self._table, self._seed = table, seed

    def choose(self, codes: Sequence[Code], scores: Sequence[float]) -> Code:
        """Return a new neighbour of the best code, or a random code at first."""
        rng = KeyedRng(self._seed, "neighbour", len(codes))
        if len(codes) >= 8:
            for birth in sorted(range(len(scores)), key=lambda birth: (-scores[birth], birth)):
                children = [code for code in self._table.neighbours(codes[birth]) if code not in codes]
                if children:
                    return rng.choice(children)
        return sample_new(self._table, self._seed, codes)


class Guided:
    """The guided births of eatnas-db, with evolution for births that the model does not decide."""

    def __init__(self, table: Table, seed: int, lag: int) -> None:
        self._table, self._seed = table, seed
        self._evolution = Evolution(table, seed, lag)
        self._models: dict[int, ProcessModel] = {}

    def choose(self, codes: Sequence[Code], scores: Sequence[float]) -> Code:
        """Return the proposal of the model, or a random code at first."""
        birth, held = len(codes), set(codes)
        if birth < GUIDED_RANDOM_BIRTHS or len(scores) < GUIDED_MIN_SCORES:
            return sample_new(self._table, self._seed, codes)
        rows = [ScoredCode(birth, codes[birth], score) for birth, score in enumerate(scores)]
        size = count_fitted_births(len(rows))
        if size not in self._models:
            self._models[size] = fit_model(self._table.encoding, limit_rows(rows[:size]), size)
        proposal = propose(
            self._table,
            self._models[size],
            limit_rows(rows),
            codes[len(scores) :],
            KeyedRng(self._seed, "proposal", birth),
            lambda code: code not in held,
        )
        return self._evolution.choose(codes, scores) if proposal is None else proposal.code


def limit_rows(rows: list[ScoredCode]) -> list[ScoredCode]:
    """Return the best and the latest rows, as a search does."""
    if len(rows) <= MAX_ROWS:
        return rows
    half = MAX_ROWS // 2
    best = sorted(rows[:-half], key=lambda row: (-row.score, row.birth))[:half]
    return sorted([*best, *rows[-half:]])


class Optuna:
    """A sampler of Optuna. If it proposes a code that was already born, it gets the known score and proposes another
    code.
    """

    MAX_REPEATS: Final = 50

    def __init__(self, table: Table, seed: int, lag: int, sampler: Any) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._table, self._seed = table, seed
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._trials: list[Any] = []
        self._told = 0

    def choose(self, codes: Sequence[Code], scores: Sequence[float]) -> Code:
        """Tell the new scores, and ask for a code that was not born yet."""
        for birth in range(self._told, len(scores)):
            self._study.tell(self._trials[birth], scores[birth])
        self._told = len(scores)
        for _ in range(self.MAX_REPEATS):
            trial = self._study.ask()
            code = tuple(
                int(trial.suggest_categorical(str(position), list(range(levels))))
                for position, levels in enumerate(self._table.levels)
            )
            if code not in self._table.row_of:
                self._study.tell(trial, state=_pruned())
                continue
            if code not in codes:
                self._trials.append(trial)
                return code
            # The duplicate costs no training. If its score is not known yet, the trial counts as failed.
            birth = codes.index(code)
            if birth < len(scores):
                self._study.tell(trial, scores[birth])
            else:
                self._study.tell(trial, state=_pruned())
        code = sample_new(self._table, self._seed, codes)
        self._study.enqueue_trial({str(position): value for position, value in enumerate(code)})
        trial = self._study.ask()
        for position, levels in enumerate(self._table.levels):
            trial.suggest_categorical(str(position), list(range(levels)))
        self._trials.append(trial)
        return code


def _pruned() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


def tpe(table: Table, seed: int, lag: int) -> Method:
    """Return Optuna's TPE, multivariate as by default in Optuna 5."""
    from optuna.samplers import TPESampler

    return Optuna(table, seed, lag, TPESampler(seed=seed, multivariate=True, constant_liar=lag > 1))


def nsga2(table: Table, seed: int, lag: int) -> Method:
    """Return Optuna's NSGA-II with a population of 12."""
    from optuna.samplers import NSGAIISampler

    return Optuna(table, seed, lag, NSGAIISampler(seed=seed, population_size=POPULATION))


def gp(table: Table, seed: int, lag: int) -> Method:
    """Return Optuna's Gaussian process."""
    from optuna.samplers import GPSampler

    return Optuna(table, seed, lag, GPSampler(seed=seed, deterministic_objective=False))


METHODS: Final[dict[str, Callable[[Table, int, int], Method]]] = {
    "random": Random,
    "evolution": Evolution,
    "local": LocalSearch,
    "guided": Guided,
    "tpe": tpe,
    "nsga2": nsga2,
    "gp": gp,
}


def trainings_to_targets(
    table: Table,
    method: Method,
    *,
    budget: int,
    lag: int,
    column: int,
    shares: Sequence[float],
    finalists: int = 1,
) -> list[int | None]:
    """Return for each share of the table the trainings until one of the best observed codes truly belongs to it.
    `finalists` is the number of best codes that are trained again to find the best code by true score. The number of
    trainings is None for a share that is not reached within the budget.
    """
    count = len(table.true_ranks)
    ranks = [max(1, math.ceil(share * count)) for share in shares]
    reached: list[int | None] = [None] * len(shares)
    codes: list[Code] = []
    scores: list[float] = []
    best: list[tuple[float, int]] = []
    for birth in range(budget):
        code = method.choose(codes, scores[: max(0, birth - lag + 1)])
        row = table.row_of[code]
        codes.append(code)
        scores.append(float(table.scores[row, column]))
        best = sorted([*best, (scores[-1], row)], key=lambda entry: -entry[0])[:finalists]
        best_rank = min(int(table.true_ranks[row]) for _, row in best)
        for number, rank in enumerate(ranks):
            if reached[number] is None and best_rank <= rank:
                reached[number] = birth + 1
        if None not in reached:
            break
    return reached


def late_spread(table: Table, *, births: int = 120, seeds: int = 10) -> float:
    """Return the mean spread of the true scores in the populations of several evolutions after `births` births."""
    spreads = []
    for seed in range(seeds):
        method = Evolution(table, seed, 1)
        codes: list[Code] = []
        scores: list[float] = []
        for _ in range(births):
            codes.append(method.choose(codes, scores))
            scores.append(float(table.true[table.row_of[codes[-1]]]))
        spreads.append(statistics.pstdev(scores[-POPULATION:]))
    return statistics.fmean(spreads)
