"""Does a child that inherits rank as it would from scratch? Kendall's tau, with a bootstrap interval.

    python benchmarks/evidence/ranking.py

Random parents, each with mutations of its own. Every mutation is trained from scratch in full under two seeds (their
tau is the ceiling), from scratch for fewer epochs, and from its parent's weights for fewer epochs at a third of the
rate. Goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from arms import LARGE
from scipy.stats import kendalltau
from trainings import Kept, assignment, parsed, task_of, train_all

from eatnas_db.domain.chance import Chance, derived_seed
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.recipe import CHILD_RATE_SHARE
from eatnas_db.domain.space import Space

SEED: Final = 300
RESAMPLES: Final = 2000


def interval(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Kendall's tau, and the range that holds 95% of it over resampled architectures."""
    chance = random.Random(SEED)
    taus = []
    for _ in range(RESAMPLES):
        drawn = [chance.randrange(len(first)) for _ in first]
        taus.append(kendalltau([first[n] for n in drawn], [second[n] for n in drawn]).statistic)
    cuts = statistics.quantiles(taus, n=40)
    return kendalltau(first, second).statistic, cuts[0], cuts[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".eatnas-evidence"))
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"))
    parser.add_argument("--data-root", default="/usr/share/datasets/fashion-mnist", help="folder of the IDX files")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--parents", type=int, default=8)
    parser.add_argument("--children", type=int, default=5, help="of each parent")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1], help="fewer epochs, of a child")
    asked = parser.parse_args()
    home = asked.home.absolute() / "ranking"
    home.mkdir(parents=True, exist_ok=True)
    spec = parsed(LARGE, asked.data_root)
    space = Space(spec.macro(), task_of(spec), Limits(None, spec.objective.max_mult_adds))
    kept = Kept(home / "ranking.jsonl")
    one, other = (derived_seed(SEED, "training", *index) for index in ((), (1,)))
    held: set[str] = set()

    parents, children = [], []
    for number in range(asked.parents):
        parent = space.sample(Chance(SEED, "parent", number), held.__contains__)
        held.add(parent.digest)
        parents.append(assignment(spec, number + 1, str(parent.effective), one, home / "parents"))
        for ordinal in range(asked.children):
            chance = Chance(SEED, "child", number, ordinal)
            child = space.mutate(parent.effective, chance, held.__contains__)
            held.add(child.digest)
            children.append((number, child))
    train_all(((f"parent-{assign.candidate}", assign) for assign in parents), kept, asked.slots)

    wanted = {}
    for index, (number, child) in enumerate(children):
        code, birth = str(child.effective), 100 + index
        wanted[f"full-{index}"] = assignment(spec, birth, code, one, home / "full")
        wanted[f"again-{index}"] = assignment(spec, birth, code, other, home / "again")
        for epochs in asked.epochs:
            wanted[f"short-{epochs}-{index}"] = assignment(
                spec, birth, code, one, home / f"short-{epochs}", epochs=epochs
            )
            rate = spec.training.learning_rate * CHILD_RATE_SHARE
            wanted[f"child-{epochs}-{index}"] = replace(
                assignment(spec, birth, code, one, home / f"child-{epochs}", epochs=epochs, learning_rate=rate),
                inherits=True,
                heritage=[asdict(parents[number])],
            )
    train_all(wanted.items(), kept, asked.slots)

    ways = ["full", "again", *(f"{way}-{epochs}" for epochs in asked.epochs for way in ("short", "child"))]
    scores = {way: [kept.results[f"{way}-{n}"]["val_accuracy"] for n in range(len(children))] for way in ways}
    asked.out.mkdir(parents=True, exist_ok=True)
    with (asked.out / "ranking.csv").open("w", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(["parent", "change", "mult_adds", "share_inherited", *ways, "code"])
        for index, (number, child) in enumerate(children):
            share = kept.results[f"child-{asked.epochs[0]}-{index}"]["share_inherited"]
            writer.writerow(
                [number, child.changes[0], child.cost.mult_adds, share]
                + [scores[way][index] for way in ways]
                + [child.effective]
            )
    for way in ways[1:]:
        tau, low, high = interval(scores["full"], scores[way])
        print(f"tau of {way} with full: {tau:.3f} ({low:.3f} to {high:.3f})")
    spread = statistics.stdev(scores["full"])
    noise = statistics.stdev(a - b for a, b in zip(scores["full"], scores["again"], strict=True)) / 2**0.5
    print(f"{len(children)} networks: spread of full {spread:.4f}, one score's noise {noise:.4f}")


if __name__ == "__main__":
    main()
