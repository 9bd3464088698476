"""Compare search methods on published tables of trained networks. Births are decided in strict order at a lag.

Each training is one look-up in a table, so that many seeds of many methods take minutes. The program appends the result
of each search to `--out` as a JSON line. If the file exists, the program runs only the searches that are missing in the
file. `docs/experiments/tables.md` lists the sources of the tables and describes the columns of the result.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import defaultdict
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables.methods import METHODS, late_spread, trainings_to_targets
from tables.results import add_missing
from tables.tables import Table

SHARES: Final = (0.01, 0.003, 0.001)
FINALISTS: Final = 3
"""With noise, this many of the best networks are trained again before one is chosen."""


class Run(NamedTuple):
    """A search: everything that its result depends on."""

    table: str
    method: str
    lag: int
    budget: int
    seed: int
    noise: float = 0.0
    """The standard deviation of noise on each score, as a multiple of the spread of a late population."""


@cache
def late_spread_of(file: Path) -> float:
    """Return the spread of a late population on a table."""
    return late_spread(Table.load(file))


def run_search(folder: Path, run: Run) -> dict[str, Any]:
    """Run one search, and return its result."""
    file = folder / f"{run.table}.npz"
    table = Table.load(file)
    if run.noise:
        table = table.with_noise(run.noise * late_spread_of(file), run.seed)
    reached = trainings_to_targets(
        table,
        METHODS[run.method](table, run.seed, run.lag),
        budget=run.budget,
        lag=run.lag,
        column=run.seed % table.scores.shape[1],
        shares=SHARES,
        finalists=FINALISTS if run.noise else 1,
    )
    return {**run._asdict(), "reached": reached}


def summarize(lines: list[dict[str, Any]]) -> list[str]:
    """Return the rows of a Markdown table: quartiles of the trainings until each share, and geometric means over
    tables.

    In the means, a search that does not reach a share counts as twice its budget.
    """
    groups: dict[tuple[int, str], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        groups[line["lag"], line["method"]][line["table"]].append(line)
    rows = [
        "| lag | method | table | seeds | " + " | ".join(f"top {share:.1%}" for share in SHARES) + " | never |",
        "|---|---|---|---|" + "---|" * (len(SHARES) + 1),
    ]
    for (lag, method), tables in sorted(groups.items()):
        logarithms: list[list[float]] = [[] for _ in SHARES]
        for table, runs in sorted(tables.items()):
            columns = [[run["reached"][number] or 2 * run["budget"] for run in runs] for number in range(len(SHARES))]
            never = "/".join(str(sum(run["reached"][number] is None for run in runs)) for number in range(len(SHARES)))
            for number, column in enumerate(columns):
                logarithms[number].append(statistics.fmean(map(math.log, column)))
            cells = " | ".join(_quartiles(column) for column in columns)
            rows.append(f"| {lag} | {method} | {table} | {len(runs)} | {cells} | {never} |")
        means = " | ".join(f"**{math.exp(statistics.fmean(values)):.1f}**" for values in logarithms)
        rows.append(f"| {lag} | **{method}** | geometric mean | | {means} | |")
    return rows


def _quartiles(values: list[int]) -> str:
    if len(values) < 2:
        return str(values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the tables (*.npz)")
    parser.add_argument("--tables", nargs="+", help="names of tables; default: all in the folder")
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=["random", "evolution", "guided"])
    parser.add_argument("--lags", nargs="+", type=int, default=[4])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--budget", type=int, default=120, help="number of trainings of one search")
    parser.add_argument(
        "--noise",
        type=float,
        default=0.0,
        help="standard deviation of the noise of a score, in multiples of the spread of a late population; default: 0",
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines to append to or create")
    options = parser.parse_args()
    names = options.tables or sorted(file.stem for file in options.folder.glob("*.npz"))
    wanted = product(names, options.methods, options.lags, [options.budget], range(options.seeds), [options.noise])
    measure = partial(run_search, options.folder)
    lines = add_missing(options.out, Run, map(Run._make, wanted), measure, processes=options.processes)
    print("\n".join(summarize(lines)))


if __name__ == "__main__":
    main()
