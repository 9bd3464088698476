"""Compare elastic transfer with other ways to search, on Fashion-MNIST. Write a CSV file for each arm and seed.

    python benchmarks/experiments/arms.py noise    # the spread of scores within and between networks
    python benchmarks/experiments/arms.py arms     # random, scratch, transfer, … with paired seeds
    python benchmarks/experiments/arms.py arms --arms after-16 blocks-2    # variations of the transfer
    python benchmarks/experiments/arms.py final    # the winners, trained longer and tested once

Finished searches are not repeated, so the program can be interrupted and started again. The CSV file of an arm includes
the small search from which the arm transfers.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from typing import Any

from arm_specs import LARGE, ArmSearch, main_arms, merge, variations
from search_runner import SearchRunner, common_options

from eatnas_db.domain.plain_scalars import plain_values
from eatnas_db.yaml_files import parse_yaml

FINAL_COLUMNS = ("arm", "seed", "candidate", "replica", "test_accuracy", "mult_adds", "code")


def measure_noise(runner: SearchRunner, name: str, networks: int, seeds: int, training: dict[str, Any]) -> None:
    """Train random networks with several seeds each. Print the spread of the scores within and between networks."""
    spec = merge(
        LARGE,
        {
            "training": training,
            "seed": 100,
            "evolution": {"population": networks, "tournament": 1, "lag": networks},
            "budget": {"candidates": networks},
            "reevaluation": {"top": networks, "seeds": seeds},
        },
    )
    runner.run(ArmSearch(name, spec))
    file = runner.write_candidates(name, {"experiment": name}, [name])
    scores: dict[str, list[float]] = {}
    with file.open(newline="") as source:
        for row in csv.DictReader(source):
            if row["kind"] == "reevaluation":
                scores.setdefault(row["parent_id"], []).append(float(row["fitness"]))
    within = math.sqrt(statistics.fmean(statistics.variance(own) for own in scores.values()))
    between = statistics.stdev(map(statistics.fmean, scores.values()))
    print(f"{name}: standard deviation within networks {within:.4f}, between their means {between:.4f}")
    print(f"    ratio {between / within:.2f}; {len(scores)} networks, {sum(map(len, scores.values()))} trainings")


def run_arms(runner: SearchRunner, arms: Sequence[str], seeds: Sequence[int]) -> None:
    for seed in seeds:
        searches = main_arms(seed) | variations(seed)
        for arm in arms:
            for arm_search in searches[arm]:
                runner.run(arm_search)
            names = [arm_search.name for arm_search in searches[arm]]
            runner.write_candidates(f"{arm}-{seed}", {"arm": arm, "seed": seed}, names)


def run_final_models(
    runner: SearchRunner, arms: Sequence[str], seeds: Sequence[int], epochs: int, trainings: int
) -> None:
    """Train the winner of every arm and seed on all training images, and write `final.csv`."""
    rows: list[tuple[Any, ...]] = []
    for seed in seeds:
        for arm in arms:
            name = main_arms(seed)[arm][-1].name
            rows += [(arm, seed, *model) for model in runner.run_final(name, epochs, trainings)]
            with (runner.out / "final.csv").open("w", newline="") as target:
                writer = csv.writer(target)
                writer.writerow(FINAL_COLUMNS)
                writer.writerows(rows)


def main() -> None:
    parser = common_options(__doc__)
    parser.add_argument("experiment", choices=["noise", "arms", "final"])
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--arms", nargs="+", default=list(main_arms(1)), choices=[*main_arms(1), *variations(1)])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--name", default="noise", help="name of the search that measures the noise of scores; default: noise"
    )
    parser.add_argument(
        "--training",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="changes to the training recipe of the noise search",
    )
    parser.add_argument("--networks", type=int, default=6, help="number of networks in the noise search; default: 6")
    parser.add_argument(
        "--noise-seeds",
        type=int,
        default=8,
        help="number of repeated trainings of each network in the noise search; default: 8",
    )
    parser.add_argument("--final-epochs", type=int, default=6)
    parser.add_argument(
        "--final-seeds", type=int, default=2, help="number of final trainings of each winner; default: 2"
    )
    options = parser.parse_args()
    runner = SearchRunner(options.home.absolute(), options.data_root, options.slots, options.out)
    if options.experiment == "noise":
        pairs = (pair.split("=", 1) for pair in options.training)
        training = {key: plain_values(parse_yaml(value)) for key, value in pairs}
        measure_noise(runner, options.name, options.networks, options.noise_seeds, training)
    elif options.experiment == "final":
        if without_winner := set(options.arms) - set(main_arms(1)):
            parser.error(f"variations have no winner: {', '.join(sorted(without_winner))}")
        run_final_models(runner, options.arms, options.seeds, options.final_epochs, options.final_seeds)
    else:
        run_arms(runner, options.arms, options.seeds)


if __name__ == "__main__":
    main()
