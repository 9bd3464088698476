"""Read the tables of the arms: the quality against the compute and the winner, for every arm and seed."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from arm_specs import LARGE, SMALL, is_small

TOP: Final = 8
"""The number of networks in the measure of quality: the mean fitness of the best networks of the large task so far."""
Row = dict[str, str]
Timing = dict[tuple[str, str], float]
"""Core seconds per epoch by task and code."""


@dataclass(frozen=True)
class Compute:
    """The compute that a run has used up to a moment."""

    seconds: float = 0.0
    """The seconds of one core."""
    work: float = 0.0
    """The trained images times the mult-adds of their network."""


@dataclass(frozen=True)
class QualityPoint:
    """The quality of a search after some compute."""

    compute: Compute
    quality: float


@dataclass(frozen=True)
class ArmRun:
    """The run of one arm with one seed."""

    arm: str
    seed: int
    compute: Compute
    """The compute of the whole run, including the small search."""
    curve: Sequence[QualityPoint]
    """The quality after each network, from network number `TOP` on."""
    population_mean: float | None
    winner: float | None
    """The mean accuracy of the winner in its re-evaluation."""
    winner_code: str

    @property
    def final_quality(self) -> float | None:
        """Return the quality at the end, or None if the large task has fewer than `TOP` networks."""
        return self.curve[-1].quality if self.curve else None

    def compute_to(self, quality: float) -> Compute | None:
        """Return the compute until the run reached a quality, or None if the run never reached that quality."""
        return next((point.compute for point in self.curve if point.quality >= quality), None)


def read_runs(folder: Path, arms: Iterable[str], timing_file: Path | None = None) -> dict[str, list[ArmRun]]:
    """Return the runs of every arm that has tables."""
    with (timing_file or folder / "timing.csv").open(newline="") as source:
        timing = {(row["task"], row["code"]): float(row["seconds_per_epoch"]) for row in csv.DictReader(source)}
    runs: dict[str, list[ArmRun]] = defaultdict(list)
    for arm in arms:
        for table in sorted(folder.glob(f"{arm}-[0-9].csv")):
            with table.open(newline="") as source:
                runs[arm].append(_read_run(arm, int(table.stem[-1]), list(csv.DictReader(source)), timing))
    return runs


def _read_run(arm: str, seed: int, rows: Sequence[Row], timing: Timing) -> ArmRun:
    trained = [row for row in rows if row["kind"] != "reevaluation"]
    # The networks of the source search come first.
    trained.sort(key=lambda row: (not _is_source(row["search"]), int(row["birth"])))
    compute, curve = _quality_curve(trained, timing)
    large = [row for row in trained if not _is_source(row["search"])]
    population = [float(row["fitness"]) for row in large if row.get("joined") and not row.get("left")]
    winner_code, winner = _winner(rows)
    return ArmRun(
        arm=arm,
        seed=seed,
        compute=compute,
        curve=curve,
        population_mean=statistics.fmean(population) if population else None,
        winner=winner,
        winner_code=winner_code,
    )


def _is_source(search: str) -> bool:
    """Return whether a search is only the source of another search."""
    return is_small(search) or search.startswith("start")


def _quality_curve(trained: Sequence[Row], timing: Timing) -> tuple[Compute, list[QualityPoint]]:
    """Return the compute of all networks, and the quality after each network of the large task."""
    compute = Compute()
    best: list[float] = []
    curve: list[QualityPoint] = []
    for row in trained:
        small = is_small(row["search"])
        spec = SMALL if small else LARGE
        epochs = 1 if row.get("share_inherited") else spec["training"]["epochs"]
        compute = Compute(
            seconds=compute.seconds + epochs * timing["small" if small else "large", row["code"]],
            work=compute.work + epochs * spec["data"]["train_images"] * float(row["mult_adds"]),
        )
        if row["fitness"] and not small:
            best = sorted([*best, float(row["fitness"])])[-TOP:]
            if len(best) == TOP:
                curve.append(QualityPoint(compute, statistics.fmean(best)))
    return compute, curve


def _winner(rows: Sequence[Row]) -> tuple[str, float | None]:
    """Return the code and the mean accuracy of the network with the best re-evaluations."""
    scores: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "reevaluation" and row["fitness"] and not _is_source(row["search"]):
            scores[row["code"]].append(float(row["fitness"]))
    means = {code: statistics.fmean(own) for code, own in scores.items()}
    code = max(means, key=means.__getitem__, default="")
    return code, means.get(code)
