"""Compare searches with short trainings on published tables, by the epochs until the best network of a search is among
the best of the table.

With `--keep`, each birth is trained for 12 epochs, and the rule of `evolution.fidelity` decides which births are
trained again from scratch, for 200 epochs. Without `--keep`, each birth is trained for 200 epochs. A network counts
only after its whole training.

With `--best-first N`, N births are trained for 12 epochs. Then these births get the whole training, the best birth
first.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eatnas_db.domain.rungs import COMPARED_BIRTHS, RungResult, is_promoted
from tables.methods import METHODS, Method
from tables.results import add_missing
from tables.tables import Code, Table

SHORT: Final = 12
WHOLE: Final = 200
SHARES: Final = (0.01, 0.003)
RUNG_STEP: Final = 1000.0
"""Added to scores after the whole training, so that each of them exceeds all scores after a short training.

All methods except Optuna's Gaussian process use only the order of the scores.
"""


class Run(NamedTuple):
    """A search: everything that its result depends on. `keep` is None without short trainings."""

    table: str
    method: str
    keep: float | None
    lag: int
    budget: int
    """The maximum number of epochs of the search."""
    seed: int
    best_first: int | None = None
    """The number of short trainings before the first whole training."""


class Trained(NamedTuple):
    """A birth with the epochs of its trainings; `score` is its score after the whole training, or None."""

    code: Code
    epochs: int
    score: float | None


def train_births(table: Table, method: Method, *, keep: float | None, lag: int, column: int) -> Iterator[Trained]:
    """Yield births in order, without end. The results of the births up to b - lag decide birth b."""
    codes: list[Code] = []
    scores: list[float] = []
    results: list[RungResult] = []
    while True:
        visible = max(0, len(codes) - lag + 1)
        code = method.choose(codes, scores[:visible])
        row = table.row_of[code]
        short = -math.inf if keep is None or table.short is None else float(table.short[row])
        continues = keep is None or is_promoted(short, results[max(0, visible - COMPARED_BIRTHS) : visible], keep)
        score = float(table.scores[row, column]) if continues else None
        codes.append(code)
        results.append(RungResult(short, continues))
        scores.append(short if score is None else score + RUNG_STEP)
        yield Trained(code, (0 if keep is None else SHORT) + WHOLE * continues, score)


def train_best_first(table: Table, method: Method, *, count: int, lag: int, column: int) -> Iterator[Trained]:
    """Yield `count` short trainings, then the whole trainings of the same births, the best first."""
    assert table.short is not None
    codes: list[Code] = []
    scores: list[float] = []
    while len(codes) < count:
        codes.append(method.choose(codes, scores[: max(0, len(codes) - lag + 1)]))
        scores.append(float(table.short[table.row_of[codes[-1]]]))
        yield Trained(codes[-1], SHORT, None)
    for birth in sorted(range(count), key=lambda birth: (-scores[birth], birth)):
        yield Trained(codes[birth], WHOLE, float(table.scores[table.row_of[codes[birth]], column]))


def epochs_to_targets(table: Table, trainings: Iterable[Trained], budget: int) -> list[int | None]:
    """Return, for each share, the epochs until the best wholly trained network truly belongs to it, or None."""
    ranks = [max(1, math.ceil(share * len(table.true_ranks))) for share in SHARES]
    reached: list[int | None] = [None] * len(SHARES)
    spent, best = 0, (-math.inf, 0)
    for trained in trainings:
        spent += trained.epochs
        if spent > budget:
            break
        if trained.score is not None:
            best = max(best, (trained.score, -table.row_of[trained.code]))
            for number, rank in enumerate(ranks):
                if reached[number] is None and table.true_ranks[-best[1]] <= rank:
                    reached[number] = spent
        if None not in reached:
            break
    return reached


def run_search(folder: Path, run: Run) -> dict[str, Any]:
    """Run one search, and return its result."""
    table = Table.load(folder / f"{run.table}.npz")
    method, column = METHODS[run.method](table, run.seed, run.lag), run.seed % table.scores.shape[1]
    if run.best_first is None:
        trainings = train_births(table, method, keep=run.keep, lag=run.lag, column=column)
    else:
        trainings = train_best_first(table, method, count=run.best_first, lag=run.lag, column=column)
    return {**run._asdict(), "reached": epochs_to_targets(table, trainings, run.budget)}


def summarize(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows of a Markdown table: quartiles of the epochs until each share, and geometric means over tables.

    In the means, a search that does not reach a share counts as twice its budget.
    """
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        first = line.get("best_first")
        order = str(line["keep"]) if first is None else f"best of {first} first"
        groups[line["method"], order][line["table"]].append(line)
    rows = [
        "| method | keep | table | seeds | " + " | ".join(f"top {share:.1%}" for share in SHARES) + " | never |",
        "|---|---|---|---|" + "---|" * (len(SHARES) + 1),
    ]
    for (method, keep), tables in sorted(groups.items()):
        logarithms: list[list[float]] = [[] for _ in SHARES]
        for table, runs in sorted(tables.items()):
            columns = [[run["reached"][number] or 2 * run["budget"] for run in runs] for number in range(len(SHARES))]
            never = "/".join(str(sum(run["reached"][number] is None for run in runs)) for number in range(len(SHARES)))
            for number, column in enumerate(columns):
                logarithms[number].append(statistics.fmean(map(math.log, column)))
            cells = " | ".join(_quartiles(column) for column in columns)
            rows.append(f"| {method} | {keep} | {table} | {len(runs)} | {cells} | {never} |")
        means = " | ".join(f"**{math.exp(statistics.fmean(values)):,.0f}**" for values in logarithms)
        rows.append(f"| **{method}** | {keep} | geometric mean | | {means} | |")
    return rows


def _quartiles(values: list[int]) -> str:
    if len(values) < 2:
        return f"{values[0]:,}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:,.0f} ({low:,.0f} to {high:,.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the tables (*.npz)")
    parser.add_argument("--tables", nargs="+", default=["nb201_c10", "nb201_c100"], help="tables with short trainings")
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=["evolution", "guided", "tpe"])
    parser.add_argument(
        "--keep", nargs="+", type=float, default=[None], help="values of evolution.fidelity.keep to compare"
    )
    parser.add_argument(
        "--best-first", type=int, metavar="N", help="number of short trainings before the first whole training"
    )
    parser.add_argument("--lag", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", type=int, default=120 * WHOLE, help="number of epochs of one search")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines to append to or create")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    settings = ([options.lag], [options.budget], seeds, [options.best_first])
    wanted = product(options.tables, options.methods, options.keep, *settings)
    measure = partial(run_search, options.folder)
    lines = add_missing(options.out, Run, map(Run._make, wanted), measure, processes=options.processes)
    print("\n".join(summarize(lines)))


if __name__ == "__main__":
    main()
