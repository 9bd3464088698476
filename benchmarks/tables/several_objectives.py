"""Compare two objectives with one scalar fitness on tables whose networks have a cost, at equal device seconds.

`pareto` optimizes accuracy and mult-adds by rank and crowding distance. `scalar` combines them into one fitness, with
the mult-adds of the median network as the target. The seconds of a training are predicted from its mult-adds, as
multiples of the seconds of the table's median network, so the load of the machine does not change them. A search ends
when its seconds are spent. The hypervolume covers all networks of the search by their true accuracy, as a share of the
hypervolume of the table.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eatnas_db.domain.dominance import Values, find_front, hypervolume
from eatnas_db.domain.evolution import Member
from eatnas_db.domain.objective import fitness
from eatnas_db.guidance.predicted_seconds import predict_seconds
from tables.results import add_missing
from tables.space_methods import SpaceEvolution
from tables.tables import Code, Table

ARMS: Final = ("pareto", "scalar")
EXPONENT: Final = -0.07
"""The default of `objective.exponent`."""
RESAMPLES: Final = 10_000


class Run(NamedTuple):
    """A search: everything that its result depends on."""

    table: str
    arm: str
    lag: int
    seconds: float
    seed: int


class CostedTable:
    """A table with the mult-adds and the predicted seconds of its networks, and the hypervolume of its front."""

    def __init__(self, table: Table) -> None:
        self.table = table
        codes = list(table.row_of)
        counts = SpaceEvolution(table, 0, 1).mult_adds(codes)
        self.mult_adds = dict(zip(codes, counts, strict=True))
        self.target = round(statistics.median(counts))
        self.seconds = dict(zip(codes, map(float, predict_seconds(counts, counts)), strict=True))
        self._largest, self._best = max(counts), float(table.true.max())
        points = [self.point(code) for code in codes]
        self._whole = hypervolume([points[place] for place in find_front(points)], (0.0, 0.0))

    def point(self, code: Code) -> Values:
        """Return the true accuracy as a share of the best accuracy, and the saved mult-adds as a share of the most
        mult-adds.
        """
        accuracy = float(self.table.true[self.table.row_of[code]])
        return accuracy / self._best, 1 - self.mult_adds[code] / self._largest

    def share(self, codes: Sequence[Code]) -> float:
        """Return the hypervolume of some networks as a share of the hypervolume of the table."""
        return hypervolume([self.point(code) for code in codes], (0.0, 0.0)) / self._whole


class ParetoEvolution(SpaceEvolution):
    """Evolution for the accuracy and the mult-adds, with the default removal of several objectives."""

    removal = "worst"

    def _member(self, birth: int, score: float) -> Member:
        cost = self._mult_adds(self._born[birth])
        return replace(super()._member(birth, score), values=(score, -float(cost)))


def search(costs: CostedTable, arm: str, *, seed: int, lag: int, seconds: float) -> list[Code]:
    """Return the networks that a search trains in this many seconds."""
    table, column = costs.table, seed % costs.table.scores.shape[1]
    method = (ParetoEvolution if arm == "pareto" else SpaceEvolution)(table, seed, lag)
    codes: list[Code] = []
    scores: list[float] = []
    spent = 0.0
    while True:
        code = method.choose(codes, scores[: max(0, len(codes) - lag + 1)])
        spent += costs.seconds[code]
        if spent > seconds:
            return codes
        codes.append(code)
        accuracy = float(table.scores[table.row_of[code], column])
        scores.append(accuracy if arm == "pareto" else fitness(accuracy, costs.mult_adds[code], costs.target, EXPONENT))


@cache
def load_costs(file: Path) -> CostedTable:
    """Return the table of a file with its costs."""
    return CostedTable(Table.load(file))


def run_search(folder: Path, run: Run) -> dict[str, Any]:
    """Run one search, and return its result."""
    costs = load_costs(folder / f"{run.table}.npz")
    codes = search(costs, run.arm, seed=run.seed, lag=run.lag, seconds=run.seconds)
    return {**run._asdict(), "trainings": len(codes), "hypervolume": round(costs.share(codes), 6)}


def summarize(lines: list[dict[str, Any]]) -> list[str]:
    """Return the rows of a Markdown table: the mean hypervolume of each arm, and the mean difference of the arms."""
    rows = ["| table | seconds | seeds | two objectives | scalar fitness | difference (95%) | seeds won |"]
    rows.append("|---|---|---|---|---|---|---|")
    groups: dict[tuple[str, float], dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        groups[line["table"], line["seconds"]][line["seed"]][line["arm"]] = line["hypervolume"]
    for (table, seconds), seeds in sorted(groups.items()):
        pairs = [arms for arms in seeds.values() if set(arms) == set(ARMS)]
        means = [f"{statistics.fmean(pair[arm] for pair in pairs):.4f}" for arm in ARMS]
        differences = [pair["pareto"] - pair["scalar"] for pair in pairs]
        low, high = interval(differences)
        won = sum(difference >= 0 for difference in differences)
        change = f"{statistics.fmean(differences):+.4f} ({low:+.4f} to {high:+.4f})"
        rows.append(f"| {table} | {seconds:g} | {len(pairs)} | {means[0]} | {means[1]} | {change} | {won} |")
    return rows


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean of the values."""
    source = random.Random(1)
    means = sorted(statistics.fmean(source.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[RESAMPLES // 40], means[-RESAMPLES // 40]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the tables (*.npz)")
    parser.add_argument("--tables", nargs="+", default=["nbmacro", "nb201_c10", "nb201_c100"])
    parser.add_argument("--lag", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument(
        "--seconds",
        nargs="+",
        type=float,
        default=[32.0, 64.0, 120.0],
        help="device seconds of one search, as multiples of the seconds of the median network",
    )
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines to append to or create")
    options = parser.parse_args()
    wanted = [
        Run(name, arm, options.lag, seconds, seed)
        for seed, name, seconds, arm in product(range(options.seeds), options.tables, options.seconds, ARMS)
    ]
    lines = add_missing(options.out, Run, wanted, partial(run_search, options.folder))
    print("\n".join(summarize(lines)))


if __name__ == "__main__":
    main()
