"""Compare how children rank with inherited weights and how they rank from scratch, by Kendall's tau with an interval.

    python benchmarks/experiments/ranking.py

Each random parent has several mutations. Every mutation is trained from scratch for all epochs with two seeds, from
scratch for fewer epochs, and from its parent's weights for fewer epochs at a third of the learning rate. The tau
between the two seeds is the upper limit. An interrupted run continues where it stopped.
"""

from __future__ import annotations

import csv
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from arm_specs import LARGE
from scipy.stats import kendalltau
from search_runner import common_options
from standalone_trainings import ResultsByName, new_assignment, parse_arm_spec, task_of, train_all

from eatnas_db.domain.objective import Limits
from eatnas_db.domain.recipe import CHILD_LEARNING_RATE_FACTOR
from eatnas_db.domain.rng import KeyedRng, derive_seed
from eatnas_db.domain.space import Proposal, Space
from eatnas_db.domain.spec import SearchSpec
from eatnas_protocol.messages import Assign

SEED: Final = 300
RESAMPLES: Final = 2000
Scores = dict[str, list[float]]
"""The accuracies of all children, keyed by the way of training."""


@dataclass(frozen=True)
class Child:
    """A mutation of a parent. Parents are numbered from 0, and so are the children of each parent."""

    parent: int
    number: int
    proposal: Proposal

    def training_name(self, way: str) -> str:
        return f"{way}-{self.parent}-{self.number}"


def tau_with_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Return Kendall's tau and the limits of its 95% bootstrap interval."""
    rng = random.Random(SEED)
    taus = []
    for _ in range(RESAMPLES):
        sample = [rng.randrange(len(first)) for _ in first]
        taus.append(kendalltau([first[n] for n in sample], [second[n] for n in sample]).statistic)
    quantiles = statistics.quantiles(taus, n=40)
    return kendalltau(first, second).statistic, quantiles[0], quantiles[-1]


def new_families(spec: SearchSpec, parents: int, children: int) -> tuple[list[Proposal], list[Child]]:
    """Return random parents and mutations of each parent. No two of these networks have the same architecture."""
    space = Space(spec.macro(), task_of(spec), Limits(None, spec.objective.max_mult_adds))
    digests: set[str] = set()
    parent_proposals, all_children = [], []
    for parent in range(parents):
        proposal = space.sample(KeyedRng(SEED, "parent", parent), digests.__contains__)
        parent_proposals.append(proposal)
        digests.add(proposal.digest)
        for number in range(children):
            rng = KeyedRng(SEED, "child", parent, number)
            child = space.mutate(proposal.effective, rng, digests.__contains__)
            digests.add(child.digest)
            all_children.append(Child(parent, number, child))
    return parent_proposals, all_children


def child_assignments(
    spec: SearchSpec, child: Child, parent: Assign, home: Path, epochs: Sequence[int]
) -> dict[str, Assign]:
    """Return the trainings of a child: two full ones, and short ones from scratch and from inherited weights."""
    first_seed, second_seed = derive_seed(SEED, "training"), derive_seed(SEED, "training", 1)
    learning_rate = spec.training.learning_rate * CHILD_LEARNING_RATE_FACTOR

    def assignment(way: str, seed: int, **training: Any) -> Assign:
        number = 100 * (child.parent + 1) + child.number
        return new_assignment(spec, number, str(child.proposal.effective), seed, home / way, **training)

    assignments = {"full": assignment("full", first_seed), "again": assignment("again", second_seed)}
    for few in epochs:
        short, inheriting = f"short-{few}", f"child-{few}"
        assignments[short] = assignment(short, first_seed, epochs=few)
        assign = assignment(inheriting, first_seed, epochs=few, learning_rate=learning_rate)
        assignments[inheriting] = replace(assign, inherits=True, ancestors=[asdict(parent)])
    return {child.training_name(way): assign for way, assign in assignments.items()}


def write_table(file: Path, children: Sequence[Child], shares: Sequence[float | None], scores: Scores) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["parent", "change", "mult_adds", "share_inherited", *scores, "code"])
        for index, child in enumerate(children):
            proposal = child.proposal
            facts = [child.parent, proposal.changes[0], proposal.cost.mult_adds, shares[index]]
            writer.writerow([*facts, *(accuracies[index] for accuracies in scores.values()), proposal.effective])


def print_taus(scores: Scores) -> None:
    full, again = scores["full"], scores["again"]
    for way, accuracies in scores.items():
        if way != "full":
            tau, low, high = tau_with_interval(full, accuracies)
            print(f"tau between {way} and full: {tau:.3f} ({low:.3f} to {high:.3f})")
    noise = statistics.stdev(a - b for a, b in zip(full, again, strict=True)) / 2**0.5
    spread = statistics.stdev(full)
    print(f"{len(full)} networks: standard deviation of the full scores {spread:.4f}, noise of one score {noise:.4f}")


def main() -> None:
    parser = common_options(__doc__)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--parents", type=int, default=8)
    parser.add_argument("--children", type=int, default=5, help="number of children of each parent; default: 5")
    parser.add_argument(
        "--epochs", type=int, nargs="+", default=[1], help="numbers of epochs of the short trainings; default: 1"
    )
    options = parser.parse_args()
    home = options.home.absolute() / "ranking"
    home.mkdir(parents=True, exist_ok=True)
    spec = parse_arm_spec(LARGE, options.data_root)
    results = ResultsByName(home / "ranking.jsonl")
    proposals, children = new_families(spec, options.parents, options.children)
    seed = derive_seed(SEED, "training")
    parents = [
        new_assignment(spec, number, str(proposal.effective), seed, home / "parents")
        for number, proposal in enumerate(proposals, 1)
    ]
    train_all(((f"parent-{assign.candidate}", assign) for assign in parents), results, options.slots)
    assignments: dict[str, Assign] = {}
    for child in children:
        assignments |= child_assignments(spec, child, parents[child.parent], home, options.epochs)
    train_all(assignments.items(), results, options.slots)

    ways = ["full", "again", *(f"{way}-{epochs}" for epochs in options.epochs for way in ("short", "child"))]
    scores = {way: [results.results[child.training_name(way)]["val_accuracy"] for child in children] for way in ways}
    inheriting = f"child-{options.epochs[0]}"
    shares = [results.results[child.training_name(inheriting)]["share_inherited"] for child in children]
    write_table(options.out / "ranking.csv", children, shares, scores)
    print_taus(scores)


if __name__ == "__main__":
    main()
