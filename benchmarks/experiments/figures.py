"""What the arms' tables say: curves of quality against compute, ratios at several levels, winners.

    python benchmarks/experiments/figures.py    # writes quality.png, winners.png and summary.md beside the tables

Quality of a search after some compute: the mean fitness of the eight best networks of the large task so far, which
every arm has, a random search too. Compute counts the small search in.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import matplotlib.pyplot as plt
from arms import LARGE, SMALL
from timing import is_small

TOP: Final = 8
UNITS: Final = ("core seconds", "images x mult-adds")
LOOKS: Final = {
    "scratch": ("evolution from scratch", "#000000", "-"),
    "transfer": ("elastic transfer", "#D55E00", "-"),
    "handmade": ("MobileNetV2's code, perturbed", "#0072B2", "--"),
    "best-of-random": ("best of 8 random, perturbed", "#009E73", "--"),
    "random": ("random search", "#999999", ":"),
    "survivors": ("small population carried over", "#CC79A7", "-."),
    "basic-alone": ("basic architecture alone", "#E69F00", "none"),
    "scratch-inherits": ("from scratch, inheriting", "#000000", "-."),
    "transfer-inherits": ("transfer, inheriting", "#D55E00", "-."),
    "optuna-nsga2": ("Optuna NSGA-II", "#56B4E9", ":"),
    "optuna-tpe": ("Optuna TPE", "#56B4E9", "-."),
}
VARIATIONS: Final = {
    "transfer": "elastic transfer as it is: a small search of 32, 3 blocks perturbed, population 8",
    "after-64": "after a small search of 64",
    "after-16": "after a small search of 16",
    "after-8": "after a small search of 8, its first population",
    "blocks-1": "1 block perturbed",
    "blocks-2": "2 blocks perturbed",
    "population-12": "population 12, tournament 6",
}
"""Ended after 20 candidates, but the first."""


@dataclass(frozen=True)
class Trial:
    """One trained network, with the compute of everything up to its end."""

    seconds: float
    work: float
    fitness: float | None


@dataclass(frozen=True)
class Run:
    """One arm under one seed. `curve`: seconds, images x mult-adds and quality, from the eighth network on."""

    arm: str
    seed: int
    trials: Sequence[Trial]
    curve: Sequence[tuple[float, float, float]]
    living: float | None
    winner: float | None
    winner_code: str

    @property
    def seconds(self) -> float:
        return self.trials[-1].seconds

    def reaches(self, level: float) -> tuple[float, float] | None:
        """Seconds and images x mult-adds until its quality was that."""
        return next(((seconds, work) for seconds, work, quality in self.curve if quality >= level), None)


def read(folder: Path) -> dict[str, list[Run]]:
    """The runs of every arm and variation that has a table, under each seed."""
    with (folder / "timing.csv").open(newline="") as source:
        timing = {(row["task"], row["code"]): float(row["seconds_per_epoch"]) for row in csv.DictReader(source)}
    runs: dict[str, list[Run]] = defaultdict(list)
    for arm in LOOKS | VARIATIONS:
        for table in sorted(folder.glob(f"{arm}-[0-9].csv")):
            with table.open(newline="") as source:
                runs[arm].append(_run(arm, int(table.stem[-1]), list(csv.DictReader(source)), timing))
    return runs


def _run(arm: str, seed: int, rows: list[dict[str, str]], timing: dict[tuple[str, str], float]) -> Run:
    seconds = work = 0.0
    trials, best, curve = [], [], []
    searched = [row for row in rows if row["kind"] != "yardstick"]
    # A search that others come from was made first.
    searched.sort(key=lambda row: (not row["search"].startswith(("small", "start")), int(row["birth"])))
    for row in searched:
        small = is_small(row["search"])
        spec = SMALL if small else LARGE
        epochs = 1 if row.get("share_inherited") else spec["training"]["epochs"]
        seconds += epochs * timing["small" if small else "large", row["code"]]
        work += epochs * spec["data"]["train_images"] * float(row["mult_adds"])
        fitness = float(row["fitness"]) if row["fitness"] and not small else None
        trials.append(Trial(seconds, work, fitness))
        if fitness is not None:
            best = sorted([*best, fitness])[-TOP:]
            if len(best) == TOP:
                curve.append((seconds, work, statistics.fmean(best)))
    large = [row for row in searched if not is_small(row["search"]) and not row["search"].startswith("start")]
    living = [float(row["fitness"]) for row in large if row.get("joined") and not row.get("left")]
    again: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "yardstick" and row["fitness"] and not row["search"].startswith(("small", "start")):
            again[row["code"]].append(row)
    means = {code: statistics.fmean(float(row["fitness"]) for row in own) for code, own in again.items()}
    code = max(means, key=means.__getitem__, default="")
    return Run(arm, seed, trials, curve, statistics.fmean(living) if living else None, means.get(code), code)


def named(names: Iterable[str], runs: dict[str, list[Run]]) -> list[tuple[str, list[Run]]]:
    """Those of these arms that have runs."""
    return [(name, runs[name]) for name in names if runs.get(name)]


def span(values: Sequence[float | None], digits: int = 3) -> str:
    """Median and range; how many there are where some are missing."""
    there = [value for value in values if value is not None]
    if not there:
        return "never"
    text = f"{statistics.median(there):.{digits}f}"
    if len(there) > 1:
        text += f" ({min(there):.{digits}f} to {max(there):.{digits}f})"
    return text + (f", {len(there)} of {len(values)}" if len(there) < len(values) else "")


def draw_curves(runs: dict[str, list[Run]], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for arm, own in named(LOOKS, runs):
        label, colour, line = LOOKS[arm]
        curves = [run.curve for run in own if run.curve]
        if not curves:
            continue
        start, stop = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
        grid = [start + (stop - start) * n / 200 for n in range(201)]
        at = [[max(quality for seconds, _, quality in curve if seconds <= point) for curve in curves] for point in grid]
        minutes = [point / 60 for point in grid]
        axes.plot(minutes, list(map(statistics.median, at)), line, color=colour, label=label, linewidth=2)
        if arm in ("scratch", "transfer"):
            axes.fill_between(minutes, list(map(min, at)), list(map(max, at)), color=colour, alpha=0.12, linewidth=0)
    axes.set(xlabel="compute: minutes of one core, small search included")
    axes.set(ylabel=f"mean validation accuracy of the best {TOP} so far")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def draw_winners(runs: dict[str, list[Run]], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    shown = [arm for arm in LOOKS if any(run.winner for run in runs.get(arm, []))]
    for place, arm in enumerate(reversed(shown)):
        values = [run.winner for run in runs[arm] if run.winner is not None]
        axes.plot(values, [place] * len(values), "o", color=LOOKS[arm][1], alpha=0.7)
        axes.plot(statistics.median(values), place, "|", color=LOOKS[arm][1], markersize=18, markeredgewidth=2.5)
    axes.set_yticks(range(len(shown)), [LOOKS[arm][0] for arm in reversed(shown)])
    axes.set(xlabel="validation accuracy of the winner: mean of 3 fresh seeds (bar: median)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=120)


def summary(runs: dict[str, list[Run]]) -> str:
    lines = [
        "# All tables of the arms",
        "",
        "Made by `benchmarks/experiments/figures.py` from the rows of each arm; [what they say](index.md).",
        "",
        "| arm | seeds | compute, core minutes | images x mult-adds, 10^12 "
        "| best 8 at the end | living mean | winner by the yardstick |",
        "|---|---|---|---|---|---|---|",
    ]
    labels = {arm: look[0] for arm, look in LOOKS.items()}
    for arm, own in named(labels, runs):
        lines.append(
            f"| {labels[arm]} | {len(own)} | {span([run.seconds / 60 for run in own], 1)} "
            f"| {span([run.trials[-1].work / 1e12 for run in own], 2)} "
            f"| {span([run.curve[-1][2] if run.curve else None for run in own])} "
            f"| {span([run.living for run in own])} | {span([run.winner for run in own])} |"
        )
    arms = "".join(ratios(runs, labels, unit) for unit in UNITS)
    changed = "".join(ratios(runs, VARIATIONS, unit) for unit in UNITS)
    head = "\n## Transfers with one thing changed, each ended after 20 candidates but the first\n"
    return "\n".join(lines) + "\n" + arms + head + changed


def ratios(runs: dict[str, list[Run]], labels: Mapping[str, str], unit: str) -> str:
    """What each arm took to levels of the from-scratch search of the same seed, over all that that search took."""
    place = UNITS.index(unit)
    base = {run.seed: run for run in runs["scratch"]}
    gaps = (0.0, 0.005, 0.01, 0.02)
    lines = [
        "",
        f"Compute ({unit}) to a quality of the from-scratch search of the same seed, over all of that search's:",
        "",
        "| arm | " + " | ".join(f"its final quality − {gap:g}" if gap else "its final quality" for gap in gaps) + " |",
        "|---" * (len(gaps) + 1) + "|",
    ]
    for arm, own in named(labels, runs):
        cells = []
        for gap in gaps:
            taken: list[float | None] = []
            for run in own:
                if run.seed in base:
                    whole = base[run.seed].trials[-1]
                    reached = run.reaches(base[run.seed].curve[-1][2] - gap)
                    taken.append(None if reached is None else reached[place] / (whole.seconds, whole.work)[place])
            cells.append(span(taken, 2))
        lines.append(f"| {labels[arm]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"))
    folder = parser.parse_args().out
    runs = read(folder)
    draw_curves(runs, folder / "quality.png")
    draw_winners(runs, folder / "winners.png")
    (folder / "summary.md").write_text(summary(runs))
    print(summary(runs))


if __name__ == "__main__":
    main()
