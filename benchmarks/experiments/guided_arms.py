"""Compare guided births with the other arms, seed by seed. Guided births start from scratch or from a small search.

    python benchmarks/experiments/arms.py arms --arms guided learnt --seeds 1 2 3 4 5 --out docs/experiments/guided
    python benchmarks/experiments/arms.py arms --arms scratch --seeds 4 5 --out docs/experiments/guided
    python benchmarks/experiments/baselines.py --samplers tpe --seeds 2 3 4 5 --slots 1 --out docs/experiments/guided
    python benchmarks/experiments/guided_arms.py    # prints two tables, and writes guided/quality.png

Compute is relative to the whole search from scratch with the same seed. The file `guided/timing.csv` lists the seconds
per epoch of every network of these arms. All networks were measured on the same machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import matplotlib.pyplot as plt
from arm_results import TOP, ArmRun, read_runs
from figures import STYLES, UNITS, ArmStyle, relative_compute

OTHERS: Final = ("scratch", "transfer", "optuna-tpe")
GUIDED: Final = {
    "guided": ArmStyle("guided births from scratch", "#0072B2", "-"),
    "learnt": ArmStyle("guided births that learn from a small search", "#CC79A7", "-"),
}
COMPARED: Final = {arm: STYLES[arm] for arm in OTHERS} | GUIDED

Runs = Mapping[str, Mapping[int, ArmRun]]
"""The runs by arm and seed."""


def read_all(folder: Path) -> Runs:
    """Return the runs of all compared arms. The folder `guided` also holds the later seeds of the other arms."""
    own, others = folder / "guided", read_runs(folder, OTHERS, folder / "guided/timing.csv")
    later = read_runs(own, COMPARED, own / "timing.csv")
    return {arm: {run.seed: run for run in [*others.get(arm, ()), *later.get(arm, ())]} for arm in COMPARED}


def summarize(runs: Runs) -> list[str]:
    """Return a Markdown table of the runs and their compute until they reach the quality of the search from scratch."""
    rows = [
        "| arm | seed | networks | first quality | last quality | core seconds | images x mult-adds |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, style in COMPARED.items():
        for seed, run in sorted(runs.get(arm, {}).items()):
            base = runs["scratch"].get(seed)
            if base is None or not run.curve:
                continue
            reached = [relative_compute(run, base, 0.0, unit) for unit in UNITS]
            cells = ["not reached" if value is None else f"{value:.2f}" for value in reached]
            qualities = f"{run.curve[0].quality:.4f} | {run.curve[-1].quality:.4f}"
            rows.append(f"| {style.label} | {seed} | {len(run.curve) + TOP - 1} | {qualities} | {' | '.join(cells)} |")
    return rows


def quality_at(run: ArmRun, seconds: float) -> float | None:
    """Return the quality that a run has reached within these core seconds, or None before the first measure of it."""
    return max((point.quality for point in run.curve if point.compute.seconds <= seconds), default=None)


def compare_with_tpe(runs: Runs) -> list[str]:
    """Return the rows of a Markdown table: the quality of an arm and of TPE at the compute of the shorter run."""
    rows = ["| arm | seed | core seconds | quality of the arm | quality of TPE |", "|---|---|---|---|---|"]
    for arm in ("scratch", *GUIDED):
        for seed, run in sorted(runs[arm].items()):
            tpe = runs["optuna-tpe"].get(seed)
            if tpe is None:
                continue
            seconds = min(run.compute.seconds, tpe.compute.seconds)
            share = seconds / runs["scratch"][seed].compute.seconds
            qualities = [quality_at(each, seconds) for each in (run, tpe)]
            cells = ["none yet" if quality is None else f"{quality:.4f}" for quality in qualities]
            rows.append(f"| {COMPARED[arm].label} | {seed} | {share:.2f} | {' | '.join(cells)} |")
    return rows


def draw(runs: Runs, file: Path) -> None:
    """Draw a panel for each seed: the quality against the compute relative to the whole search from scratch."""
    seeds = sorted({seed for arm in GUIDED for seed in runs[arm]})
    figure, axes = plt.subplots(1, len(seeds), figsize=(3.4 * len(seeds), 3.6), sharey=True, layout="constrained")
    for axis, seed in zip(axes, seeds, strict=True):
        base = runs["scratch"][seed]
        for arm, style in COMPARED.items():
            run = runs.get(arm, {}).get(seed)
            if run is not None:
                seconds = [point.compute.seconds / base.compute.seconds for point in run.curve]
                qualities = [point.quality for point in run.curve]
                axis.step(seconds, qualities, where="post", color=style.colour, label=style.label, linewidth=2)
        axis.set(title=f"seed {seed}", xlabel="core seconds, scratch = 1", xlim=(0, 1.05), ylim=(0.8, 0.87))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel=f"mean accuracy of the best {TOP}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("docs/experiments"), help="folder of the tables; default: docs/experiments"
    )
    folder = parser.parse_args().folder
    runs = read_all(folder)
    draw(runs, folder / "guided/quality.png")
    print("\n".join([*summarize(runs), "", *compare_with_tpe(runs)]))


if __name__ == "__main__":
    main()
