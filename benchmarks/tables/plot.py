"""Draw the share of searches that have reached the top 0.3% of a table, by trainings.

Only tables with searches of all methods are drawn, so that the curves can be compared.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt

STYLES: Final = {
    "guided": ("guided births", "#0072b2", "-"),
    "tpe": ("Optuna TPE", "#d55e00", "--"),
    "evolution": ("evolution", "#000000", "-"),
    "local": ("local search", "#009e73", ":"),
    "nsga2": ("Optuna NSGA-II", "#cc79a7", "--"),
    "random": ("random", "#999999", ":"),
}
SHARE: Final = 1
"""The index of the top 0.3% in the list `reached` of a search."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="file of JSON lines that compare.py has written")
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    tables = set.intersection(*({line["table"] for line in lines if line["method"] == method} for method in STYLES))
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for method, (label, colour, style) in STYLES.items():
        runs = [line for line in lines if line["method"] == method and line["table"] in tables]
        budget = runs[0]["budget"]
        reached = [run["reached"][SHARE] or budget + 1 for run in runs]
        shares = [sum(count <= trainings for count in reached) / len(reached) for trainings in range(budget + 1)]
        axes.step(range(budget + 1), shares, where="post", label=label, color=colour, linestyle=style)
    axes.set(xlabel="trainings", ylabel="searches in the top 0.3%", xlim=(0, budget), ylim=(0, 1))
    axes.grid(color="#dddddd")
    axes.legend(frameon=False, loc=(0.74, 0.31), fontsize="small")
    figure.savefig(options.picture, dpi=120)


if __name__ == "__main__":
    main()
