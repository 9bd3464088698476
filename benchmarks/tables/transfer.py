"""Compare transfers between tables with searches from scratch. All searches decide their births in strict order at a
lag.

`docs/experiments/transfer.md` declares the pairs and describes the result. The program appends the result of each
transfer to `--out` as a JSON line. If the file exists, the program runs only the transfers that are missing in the
file.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import defaultdict
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eatnas_db.guidance.blas_threads import one_thread
from tables.methods import trainings_to_targets
from tables.results import add_missing, read_lines
from tables.tables import Table
from tables.transfer_methods import GuidedTransfer, negate_scores, run_source, shuffle_scores

SHARES: Final = (0.01, 0.003)
SOURCE_TRAININGS: Final = 32
SOURCE_COST: Final = 0.1
"""The cost of a training of the source, in trainings of the target."""
CIFAR10, CIFAR100 = "nb201_c10", "nb201_c100"
OBJECTS, SCENES = "tnbmacro_class_object", "tnbmacro_class_scene"
NORMALS, SEGMENTATION = "tnbmacro_normal", "tnbmacro_segmentsemantic"
CHOOSING: Final = ((SCENES, OBJECTS), (OBJECTS, SCENES), (OBJECTS, SEGMENTATION))
RELATED: Final = (
    *((CIFAR10, CIFAR100), (CIFAR100, CIFAR10), (OBJECTS, NORMALS), (SCENES, NORMALS)),
    *((NORMALS, OBJECTS), (NORMALS, SCENES), (SCENES, SEGMENTATION)),
)
ADVERSE: Final = (
    *((NORMALS, SEGMENTATION), (SEGMENTATION, OBJECTS), (SEGMENTATION, SCENES)),
    *(("negated " + NORMALS, NORMALS), ("shuffled " + NORMALS, NORMALS)),
    *(("negated " + CIFAR10, CIFAR100), ("shuffled " + CIFAR10, CIFAR100)),
)
PAIRS: Final = {"choosing": CHOOSING, "related": RELATED, "adverse": ADVERSE}


class Transfer(NamedTuple):
    """A transfer: everything that its result depends on."""

    source: str
    target: str
    seed: int
    lag: int
    budget: int


@cache
def load_table(folder: Path, name: str) -> Table:
    """Read a table. A name may begin with a word that changes the scores: `negated` or `shuffled`."""
    *change, stem = name.split()
    table = Table.load(folder / f"{stem}.npz")
    if change == ["negated"]:
        return negate_scores(table)
    return shuffle_scores(table, 0) if change == ["shuffled"] else table


def run_transfer(folder: Path, transfer: Transfer) -> dict[str, Any]:
    """Run one source and one target search, and return the result."""
    table = load_table(folder, transfer.target)
    with one_thread():
        source = run_source(
            load_table(folder, transfer.source), transfer.seed, trainings=SOURCE_TRAININGS, lag=transfer.lag
        )
        reached = trainings_to_targets(
            table,
            GuidedTransfer(table, transfer.seed, transfer.lag, source),
            budget=transfer.budget,
            lag=transfer.lag,
            column=transfer.seed % table.scores.shape[1],
            shares=SHARES,
        )
    return {**transfer._asdict(), "reached": reached}


def summarize(lines: list[dict[str, Any]], scratch: list[dict[str, Any]], lag: int) -> list[str]:
    """Return the rows of a Markdown table: medians and quartiles of the trainings to the top shares, and ratios.

    A search that does not reach a share counts as twice its budget.
    """
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for line in (line for line in lines if line["lag"] == lag):
        found[line["source"], line["target"]].append([count or 2 * line["budget"] for count in line["reached"]])
    rows = [
        "| source | target | top 1% | top 0.3% | guided, top 1% | evolution | evolution / total | transfer / guided |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, pairs in PAIRS.items():
        costs, harms = [], []
        for source, target in (pair for pair in pairs if pair in found):
            first, second = zip(*found[source, target], strict=True)
            guided, evolution = (_scratch(scratch, method, target, lag) for method in ("guided", "evolution"))
            total = statistics.median(first) + SOURCE_COST * SOURCE_TRAININGS
            costs.append(evolution / total)
            harms.append(statistics.median(first) / guided)
            rows.append(
                f"| {source} | {target} | {_quartiles(first)} | {_quartiles(second)} | {guided:g} | {evolution:g} | "
                f"{costs[-1]:.2f} | {harms[-1]:.2f} |"
            )
        if costs:
            means = [math.exp(statistics.fmean(map(math.log, values))) for values in (costs, harms)]
            rows.append(f"| **{title}** | geometric mean | | | | | **{means[0]:.2f}** | **{means[1]:.2f}** |")
    return rows


def _scratch(lines: list[dict[str, Any]], method: str, table: str, lag: int) -> float:
    return statistics.median(
        line["reached"][0] or 2 * line["budget"]
        for line in lines
        if (line["method"], line["table"], line["lag"]) == (method, table, lag)
    )


def _quartiles(values: tuple[float, ...]) -> str:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:g} ({low:.0f} to {high:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the tables (*.npz)")
    parser.add_argument("--pairs", nargs="+", choices=tuple(PAIRS), default=["related", "adverse"])
    parser.add_argument("--lag", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--budget", type=int, default=120, help="number of trainings of one search")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--scratch",
        type=Path,
        required=True,
        help="file of JSON lines about searches from scratch, written by compare.py",
    )
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines to append to or create")
    options = parser.parse_args()
    pairs = [pair for kind in options.pairs for pair in PAIRS[kind]]
    # The seeds are the outer loop, so that an interrupted run has the same number of seeds for each pair.
    wanted = [Transfer(*pair, seed, options.lag, options.budget) for seed in range(options.seeds) for pair in pairs]
    measure = partial(run_transfer, options.folder)
    lines = add_missing(options.out, Transfer, wanted, measure, processes=options.processes)
    print("\n".join(summarize(lines, read_lines(options.scratch), options.lag)))


if __name__ == "__main__":
    main()
