"""Draw the share of searches that have reached the top 0.3% of a table, by epochs of all trainings."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt

STYLES: Final = {
    "guided": ("guided births", "#0072b2"),
    "tpe": ("Optuna TPE", "#d55e00"),
    "evolution": ("evolution", "#000000"),
}
SHARE: Final = 1
"""The index of the top 0.3% in the list `reached` of a search."""
WHOLE: Final = 200


def read_epochs(short: Path, whole: Path) -> dict[tuple[str, bool], list[float]]:
    """Return the epochs of each search until the top 0.3%, by method and by whether it has short trainings."""
    found: dict[tuple[str, bool], list[float]] = {}

    def add(line: dict[str, Any], *, short_first: bool, epochs: int) -> None:
        reached = line["reached"][SHARE]
        found.setdefault((line["method"], short_first), []).append(
            float("inf") if reached is None else reached * epochs
        )

    lines = [json.loads(text) for text in short.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        add(line, short_first=True, epochs=1)
    tables = {line["table"] for line in lines}
    for text in whole.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if line["table"] in tables and line["method"] in STYLES:
            add(line, short_first=False, epochs=WHOLE)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("short", type=Path, help="file of JSON lines that few_epochs.py has written")
    parser.add_argument("whole", type=Path, help="file of JSON lines that compare.py has written")
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (method, short_first), epochs in sorted(read_epochs(options.short, options.whole).items()):
        label, colour = STYLES[method]
        ordered = sorted(epochs)
        shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
        axes.step(
            ordered,
            shares,
            where="post",
            color=colour,
            linestyle="-" if short_first else "--",
            label=f"{label}, {'12 epochs first' if short_first else 'all epochs'}",
        )
    axes.set(xlabel="epochs", ylabel="searches in the top 0.3%", xscale="log", xlim=(300, 24_000), ylim=(0, 1))
    axes.grid(color="#dddddd")
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(options.picture, dpi=120)


if __name__ == "__main__":
    main()
