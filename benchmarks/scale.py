"""Measure the cost of a record with up to a million candidates on SQLite and PostgreSQL.

Each figure is a subcommand that appends JSON lines to the file of results. `all` measures the figures that are missing
in the file. Measurements alternate with the same statements in the bare driver, so that a busy machine affects both.
The synthetic histories are created once (`fill`) and kept in a folder. `optuna` needs `pip install optuna`; `plot`
draws the results.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from scaling.cleanup_costs import measure_cleanups
from scaling.measurements import KINDS, Scale
from scaling.plots import draw_plots
from scaling.read_costs import measure_queries
from scaling.synthetic_histories import SyntheticHistories, check_synthetic_history
from scaling.whole_searches import compare_fingerprints, measure_start, measure_throughput
from scaling.write_costs import measure_disk_space, measure_leases, measure_transactions

SIZES = (1_000, 10_000, 100_000, 1_000_000)


def fill(scale: Scale) -> None:
    """Create the missing histories."""
    check_synthetic_history()
    for kind in scale.kinds:
        for size in scale.sizes:
            scale.histories.url(kind, size)


def plot(scale: Scale) -> None:
    draw_plots(scale.read_results(), scale.results.parent)


def compare_with_optuna(scale: Scale) -> None:
    from scaling import optuna_comparison

    optuna_comparison.compare_with_optuna(scale)


FIGURES: dict[str, Callable[[Scale], None]] = {
    "transactions": measure_transactions,
    "queries": measure_queries,
    "start": measure_start,
    "lease": measure_leases,
    "throughput": measure_throughput,
    "fingerprint": compare_fingerprints,
    "bytes": measure_disk_space,
    "cleanup": measure_cleanups,
    "optuna": compare_with_optuna,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=("fill", *FIGURES, "plot", "all"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "eatnas-scale")
    parser.add_argument("--results", type=Path, default=Path("docs/performance/results.jsonl"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--databases", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument(
        "--pairs", type=int, default=200, help="number of repetitions of each measurement; default: 200"
    )
    options = parser.parse_args()
    scale = Scale(
        histories=SyntheticHistories(options.folder),
        results=options.results,
        sizes=tuple(options.sizes),
        kinds=tuple(options.databases),
        pairs=options.pairs,
    )
    if options.figure == "all":
        measured = {line["figure"].replace("query", "queries") for line in scale.read_results()}
        for figure, measure in FIGURES.items():
            if figure not in measured:
                measure(scale)
    else:
        {"fill": fill, **FIGURES, "plot": plot}[options.figure](scale)


if __name__ == "__main__":
    main()
