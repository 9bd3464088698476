"""Compare guided births by improvement and by improvement per second, on tables of networks with known mult-adds.

The seconds of a training are predicted from mult-adds, in multiples of the seconds of the table's median network. For a
table of NAS-Bench-201, the built-in space computes the mult-adds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import defaultdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eatnas_db.guidance.predicted_seconds import predict_seconds
from tables.results import add_missing
from tables.space_methods import SpaceGuided
from tables.tables import Code, Table

SHARES: Final = (0.01, 0.003)
ARMS: Final = {"improvement": False, "improvement_per_second": True}


class Run(NamedTuple):
    """A search: everything that its result depends on."""

    table: str
    acquisition: str
    lag: int
    budget: int
    seed: int


def run_search(folder: Path, run: Run) -> dict[str, Any]:
    """Run one search, and return its result."""
    table = Table.load(folder / f"{run.table}.npz")
    method = SpaceGuided(table, run.seed, run.lag, per_second=ARMS[run.acquisition])
    column = run.seed % table.scores.shape[1]
    return {**run._asdict(), **seconds_to_targets(table, method, budget=run.budget, lag=run.lag, column=column)}


def seconds_to_targets(table: Table, method: SpaceGuided, *, budget: int, lag: int, column: int) -> dict[str, Any]:
    """Return for each share of the table the seconds and the trainings until the best code belongs to the share, or
    None.
    """
    ranks = [max(1, math.ceil(share * len(table.true_ranks))) for share in SHARES]
    reached: list[tuple[float, int] | None] = [None] * len(SHARES)
    typical = method.mult_adds(list(table.row_of)[:: max(1, len(table.row_of) // 500)])
    codes: list[Code] = []
    scores: list[float] = []
    spent, best = 0.0, (-math.inf, 0)
    for birth in range(budget):
        code = method.choose(codes, scores[: max(0, birth - lag + 1)])
        row = table.row_of[code]
        codes.append(code)
        scores.append(float(table.scores[row, column]))
        spent += float(predict_seconds(method.mult_adds([code]), typical)[0])
        best = max(best, (scores[-1], -row))
        for number, rank in enumerate(ranks):
            if reached[number] is None and table.true_ranks[-best[1]] <= rank:
                reached[number] = (round(spent, 3), birth + 1)
        if None not in reached:
            break
    return {"reached": reached, "spent": round(spent, 3)}


def summarize(lines: list[dict[str, Any]]) -> list[str]:
    """Return the rows of a Markdown table: geometric means. A search that misses a share counts as twice its cost."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["table"], line["acquisition"]].append(line)
    rows = ["| table | acquisition | seeds | seconds to top 1% | 0.3% | trainings to top 1% | 0.3% | never |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for (table, acquisition), runs in sorted(groups.items()):
        cells = []
        for place, limit in ((0, "spent"), (1, "budget")):
            for number in range(len(SHARES)):
                found = [run["reached"][number] for run in runs]
                values = [
                    2 * run[limit] if reached is None else reached[place]
                    for run, reached in zip(runs, found, strict=True)
                ]
                cells.append(f"{math.exp(statistics.fmean(map(math.log, values))):.1f}")
        never = "/".join(str(sum(run["reached"][number] is None for run in runs)) for number in range(len(SHARES)))
        rows.append(f"| {table} | {acquisition} | {len(runs)} | {' | '.join(cells)} | {never} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the tables (*.npz)")
    parser.add_argument("--tables", nargs="+", default=["nbmacro", "nb201_c10", "nb201_c100"])
    parser.add_argument("--lag", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--budget", type=int, default=120, help="number of trainings of one search")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines to append to or create")
    options = parser.parse_args()
    wanted = [
        Run(name, acquisition, options.lag, options.budget, seed)
        for seed, name, acquisition in product(range(options.seeds), options.tables, ARMS)
    ]
    lines = add_missing(options.out, Run, wanted, partial(run_search, options.folder))
    print("\n".join(summarize(lines)))


if __name__ == "__main__":
    main()
