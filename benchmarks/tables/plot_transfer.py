"""Draw the share of searches that have reached the top 1% of a table, with a source and from scratch, by total cost."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables.transfer import PAIRS, SOURCE_COST, SOURCE_TRAININGS

BUDGET = 60


def shares(reached: Sequence[int | None], cost: float) -> tuple[list[float], list[float]]:
    """Return total costs, and the share of searches that have reached the top 1% at each cost."""
    trainings = range(BUDGET + 1)
    found = [sum(count is not None and count <= number for count in reached) / len(reached) for number in trainings]
    return [number + cost for number in trainings], found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="file of JSON lines that transfer.py has written")
    parser.add_argument("scratch", type=Path, help="file of JSON lines that compare.py has written")
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    transfers, searches = (_read(file) for file in (options.rows, options.scratch))
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
    for axes, kind in zip(panels, ("related", "adverse"), strict=True):
        targets = {target for _, target in PAIRS[kind]}
        pairs = [line["reached"][0] for line in transfers if (line["source"], line["target"]) in PAIRS[kind]]
        axes.step(*shares(pairs, SOURCE_COST * SOURCE_TRAININGS), where="post", label="with a source", color="#d55e00")
        for method, label, colour in (("guided", "guided births", "#0072b2"), ("evolution", "evolution", "#000000")):
            runs = [
                line["reached"][0]
                for line in searches
                if (line["method"], line["lag"]) == (method, 4) and line["table"] in targets
            ]
            axes.step(*shares(runs, 0), where="post", label=label, color=colour)
        axes.set(title=f"{kind} pairs", xlabel="trainings, with the source", xlim=(0, BUDGET), ylim=(0, 1))
        axes.grid(color="#dddddd")
    panels[0].set_ylabel("searches in the top 1%")
    panels[1].legend(frameon=False, fontsize="small", loc="lower right")
    figure.savefig(options.picture, dpi=120)


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
