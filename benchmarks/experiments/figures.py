"""Summarise the tables of the arms: quality against compute, the relative compute for several qualities, and winners.

python benchmarks/experiments/figures.py    # writes quality.png, winners.png and summary.md next to the tables
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib.pyplot as plt
from arm_results import TOP, ArmRun, Compute, read_runs

Runs = Mapping[str, Sequence[ArmRun]]
GRID_POINTS: Final = 201
QUALITY_GAPS: Final = (0.0, 0.005, 0.01, 0.02)
UNITS: Final = {"core seconds": "seconds", "images x mult-adds": "work"}
"""The field of `Compute` for each unit."""


class ArmStyle(NamedTuple):
    """The label and the style of an arm."""

    label: str
    colour: str
    line: str


STYLES: Final = {
    "scratch": ArmStyle("evolution from scratch", "#000000", "-"),
    "transfer": ArmStyle("elastic transfer", "#D55E00", "-"),
    "handmade": ArmStyle("MobileNetV2's code, perturbed", "#0072B2", "--"),
    "best-of-random": ArmStyle("best of 8 random, perturbed", "#009E73", "--"),
    "random": ArmStyle("random search", "#999999", ":"),
    "survivors": ArmStyle("small population carried over", "#CC79A7", "-."),
    "basic-alone": ArmStyle("basic architecture alone", "#E69F00", "none"),
    "scratch-inherits": ArmStyle("from scratch, inheriting", "#000000", "-."),
    "transfer-inherits": ArmStyle("transfer, inheriting", "#D55E00", "-."),
    "optuna-nsga2": ArmStyle("Optuna NSGA-II", "#56B4E9", ":"),
    "optuna-tpe": ArmStyle("Optuna TPE", "#56B4E9", "-."),
}
VARIATIONS: Final = {
    "transfer": "the default: a small search of 32 candidates, 3 blocks perturbed, population 8",
    "after-64": "a small search of 64 candidates",
    "after-16": "a small search of 16 candidates",
    "after-8": "a small search of 8 candidates, which are its initial population",
    "blocks-1": "1 block perturbed",
    "blocks-2": "2 blocks perturbed",
    "population-12": "population 12, tournament 6",
}
"""All arms except the first end after 20 candidates."""


def present(arms: Iterable[str], runs: Runs) -> list[tuple[str, Sequence[ArmRun]]]:
    """Return the arms that have runs."""
    return [(arm, runs[arm]) for arm in arms if runs.get(arm)]


def format_spread(values: Sequence[float | None], digits: int = 3, missing: str = "not measured") -> str:
    """Return the median and the range of the known values, with their number if some values are unknown.

    Return `missing` if all values are unknown.
    """
    known = [value for value in values if value is not None]
    if not known:
        return missing
    text = f"{statistics.median(known):.{digits}f}"
    if len(known) > 1:
        text += f" ({min(known):.{digits}f} to {max(known):.{digits}f})"
    return text + (f", {len(known)} of {len(values)}" if len(known) < len(values) else "")


def draw_curves(runs: Runs, file: Path) -> None:
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for arm, own in present(STYLES, runs):
        style = STYLES[arm]
        curves = [run.curve for run in own if run.curve]
        if not curves:
            continue
        start = max(curve[0].compute.seconds for curve in curves)
        stop = min(curve[-1].compute.seconds for curve in curves)
        grid = [start + (stop - start) * n / (GRID_POINTS - 1) for n in range(GRID_POINTS)]
        qualities = [
            [max(point.quality for point in curve if point.compute.seconds <= seconds) for curve in curves]
            for seconds in grid
        ]
        minutes = [seconds / 60 for seconds in grid]
        medians = list(map(statistics.median, qualities))
        axes.plot(minutes, medians, style.line, color=style.colour, label=style.label, linewidth=2)
        if arm in ("scratch", "transfer"):
            low, high = list(map(min, qualities)), list(map(max, qualities))
            axes.fill_between(minutes, low, high, color=style.colour, alpha=0.12, linewidth=0)
    axes.set(xlabel="compute: minutes of one core, small search included")
    axes.set(ylabel=f"mean validation accuracy of the best {TOP} so far")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def draw_winners(runs: Runs, file: Path) -> None:
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    arms = [arm for arm in STYLES if any(run.winner for run in runs.get(arm, []))]
    for place, arm in enumerate(reversed(arms)):
        values, colour = [run.winner for run in runs[arm] if run.winner is not None], STYLES[arm].colour
        axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.7)
        axes.plot(statistics.median(values), place, "|", color=colour, markersize=18, markeredgewidth=2.5)
    axes.set_yticks(range(len(arms)), [STYLES[arm].label for arm in reversed(arms)])
    axes.set(xlabel="validation accuracy of the winner: mean of 3 fresh seeds (bar: median)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=120)


def summarize(runs: Runs) -> str:
    """Return all tables as Markdown."""
    lines = [
        "# All tables of the arms",
        "",
        "`benchmarks/experiments/figures.py` writes these tables from the rows of each arm. Figures are medians over "
        "the seeds, with the range in parentheses. [The main page](index.md) discusses the tables.",
        "",
        "| arm | seeds | compute, core minutes | images x mult-adds, 10^12 "
        "| best 8 at the end | population mean | winner by the re-evaluation |",
        "|---|---|---|---|---|---|---|",
    ]
    labels = {arm: style.label for arm, style in STYLES.items()}
    for arm, own in present(labels, runs):
        lines.append(
            f"| {labels[arm]} | {len(own)} | {format_spread([run.compute.seconds / 60 for run in own], 1)} "
            f"| {format_spread([run.compute.work / 1e12 for run in own], 2)} "
            f"| {format_spread([run.final_quality for run in own])} "
            f"| {format_spread([run.population_mean for run in own])} "
            f"| {format_spread([run.winner for run in own])} |"
        )
    arms = "".join(compare_compute(runs, labels, unit) for unit in UNITS)
    variations = "".join(compare_compute(runs, VARIATIONS, unit) for unit in UNITS)
    heading = "\n## Transfers with one change each\n\nAll transfers except the first one ended after 20 candidates.\n"
    return "\n".join(lines) + "\n" + arms + heading + variations


def compare_compute(runs: Runs, labels: Mapping[str, str], unit: str) -> str:
    """Return a table of the compute until each arm reaches several qualities, relative to the search from scratch."""
    scratch = {run.seed: run for run in runs["scratch"]}
    lines = [
        "",
        "Each run is compared with the search from scratch of the same seed. The columns show the compute "
        f"({unit}) until the run reaches the final quality of that search, or a quality slightly below it. The "
        "unit is the whole compute of the search from scratch:",
        "",
        "| arm | " + " | ".join(f"final quality − {gap:g}" if gap else "final quality" for gap in QUALITY_GAPS) + " |",
        "|---" * (len(QUALITY_GAPS) + 1) + "|",
    ]
    for arm, own in present(labels, runs):
        pairs = [(run, scratch[run.seed]) for run in own if run.seed in scratch]
        cells = [
            format_spread([relative_compute(run, base, gap, unit) for run, base in pairs], 2, missing="never")
            for gap in QUALITY_GAPS
        ]
        lines.append(f"| {labels[arm]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def relative_compute(run: ArmRun, base: ArmRun, gap: float, unit: str) -> float | None:
    """Return the compute until a run reaches the final quality of `base` minus a gap, as a share of that of `base`."""
    if base.final_quality is None:
        return None
    compute = run.compute_to(base.final_quality - gap)
    return None if compute is None else _in_unit(compute, unit) / _in_unit(base.compute, unit)


def _in_unit(compute: Compute, unit: str) -> float:
    return float(getattr(compute, UNITS[unit]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("docs/experiments"), help="folder of the tables; default: docs/experiments"
    )
    folder = parser.parse_args().out
    runs = read_runs(folder, STYLES | VARIATIONS)
    draw_curves(runs, folder / "quality.png")
    draw_winners(runs, folder / "winners.png")
    summary = summarize(runs)
    (folder / "summary.md").write_text(summary)
    print(summary)


if __name__ == "__main__":
    main()
