"""Does a child that inherits rank as it would from scratch? Kendall's tau, with a bootstrap interval.

    python benchmarks/experiments/ranking.py

Random parents, each with mutations of its own. Every mutation is trained from scratch in full under two seeds (their
tau is the ceiling), from scratch for fewer epochs, and from its parent's weights for fewer epochs at a third of the
rate. Goes on where it was stopped.
"""

from __future__ import annotations

import csv
import random
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from arms import LARGE, options
from scipy.stats import kendalltau
from trainings import Kept, assignment, parsed, task_of, train_all

from eatnas_db.domain.objective import Limits
from eatnas_db.domain.recipe import CHILD_LEARNING_RATE_FACTOR
from eatnas_db.domain.rng import KeyedRng, derive_seed
from eatnas_db.domain.space import Proposal, Space
from eatnas_db.domain.spec import SearchSpec
from eatnas_protocol.messages import Assign

SEED: Final = 300
RESAMPLES: Final = 2000
Asked = dict[str, Assign]
Children = dict[tuple[int, int], Proposal]
"""By the number of the parent, and a child's among its own."""


def interval(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Kendall's tau, and the range that holds 95% of it over resampled architectures."""
    chance = random.Random(SEED)
    taus = []
    for _ in range(RESAMPLES):
        drawn = [chance.randrange(len(first)) for _ in first]
        taus.append(kendalltau([first[n] for n in drawn], [second[n] for n in drawn]).statistic)
    cuts = statistics.quantiles(taus, n=40)
    return kendalltau(first, second).statistic, cuts[0], cuts[-1]


def family(spec: SearchSpec, parents: int, children: int) -> tuple[list[Proposal], Children]:
    """Random parents, and mutations of each by their numbers; no network twice."""
    space = Space(spec.macro(), task_of(spec), Limits(None, spec.objective.max_mult_adds))
    held: set[str] = set()
    elders, young = [], {}
    for number in range(parents):
        elders.append(space.sample(KeyedRng(SEED, "parent", number), held.__contains__))
        held.add(elders[-1].digest)
        for ordinal in range(children):
            child = space.mutate(elders[-1].effective, KeyedRng(SEED, "child", number, ordinal), held.__contains__)
            held.add(child.digest)
            young[number, ordinal] = child
    return elders, young


def name_of(way: str, key: tuple[int, int]) -> str:
    return f"{way}-{key[0]}-{key[1]}"


def trainings(
    spec: SearchSpec, child: Proposal, key: tuple[int, int], parent: Assign, home: Path, epochs: list[int]
) -> Asked:
    """One child in every way: in full under two seeds, and for fewer epochs from scratch and from its parent."""
    one, other = (derive_seed(SEED, "training", *of) for of in ((), (1,)))
    rate = spec.training.learning_rate * CHILD_LEARNING_RATE_FACTOR

    def so(way: str, seed: int, **training: Any) -> tuple[str, Assign]:
        number = 100 * (key[0] + 1) + key[1]
        return name_of(way, key), assignment(spec, number, str(child.effective), seed, home / way, **training)

    asked = dict([so("full", one), so("again", other)])
    for few in epochs:
        asked |= dict([so(f"short-{few}", one, epochs=few)])
        name, assign = so(f"child-{few}", one, epochs=few, learning_rate=rate)
        asked[name] = replace(assign, inherits=True, ancestors=[asdict(parent)])
    return asked


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--parents", type=int, default=8)
    parser.add_argument("--children", type=int, default=5, help="of each parent")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1], help="fewer epochs, of a child")
    asked = parser.parse_args()
    home = asked.home.absolute() / "ranking"
    home.mkdir(parents=True, exist_ok=True)
    spec = parsed(LARGE, asked.data_root)
    kept = Kept(home / "ranking.jsonl")
    elders, children = family(spec, asked.parents, asked.children)
    seed = derive_seed(SEED, "training")
    parents = [
        assignment(spec, number, str(elder.effective), seed, home / "parents") for number, elder in enumerate(elders, 1)
    ]
    train_all(((f"parent-{assign.candidate}", assign) for assign in parents), kept, asked.slots)
    wanted: Asked = {}
    for key, child in children.items():
        wanted |= trainings(spec, child, key, parents[key[0]], home, asked.epochs)
    train_all(wanted.items(), kept, asked.slots)

    ways = ["full", "again", *(f"{way}-{epochs}" for epochs in asked.epochs for way in ("short", "child"))]
    scores = {way: [kept.results[name_of(way, key)]["val_accuracy"] for key in children] for way in ways}
    shares = [kept.results[name_of(f"child-{asked.epochs[0]}", key)]["share_inherited"] for key in children]
    write(asked.out / "ranking.csv", children, shares, scores)
    tell(scores)


def write(file: Path, children: Children, shares: list[float], scores: dict[str, list[float]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(["parent", "change", "mult_adds", "share_inherited", *scores, "code"])
        for index, ((number, _), child) in enumerate(children.items()):
            told = [number, child.changes[0], child.cost.mult_adds, shares[index]]
            writer.writerow([*told, *(own[index] for own in scores.values()), child.effective])


def tell(scores: dict[str, list[float]]) -> None:
    full, again = scores["full"], scores["again"]
    for way, own in scores.items():
        if way != "full":
            tau, low, high = interval(full, own)
            print(f"tau of {way} with full: {tau:.3f} ({low:.3f} to {high:.3f})")
    noise = statistics.stdev(a - b for a, b in zip(full, again, strict=True)) / 2**0.5
    print(f"{len(full)} networks: spread of full {statistics.stdev(full):.4f}, one score's noise {noise:.4f}")


if __name__ == "__main__":
    main()
