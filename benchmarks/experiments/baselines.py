"""Run Optuna's NSGA-II and TPE with the space, recipe, images and budget of the arms.

    python benchmarks/experiments/baselines.py --samplers nsga2 tpe --seeds 1 2

The program needs `pip install optuna`. A trial fails, at no cost, if its code exceeds the limit of mult-adds or if its
network has been trained already. The best networks are re-evaluated like the best networks of the arms. An interrupted
run continues where it stopped.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, Final

import optuna
from arm_specs import LARGE
from optuna.trial import Trial, TrialState
from search_runner import common_options
from standalone_trainings import (
    ResultsByName,
    TrainingResult,
    new_assignment,
    new_pool,
    parse_arm_spec,
    task_of,
    train,
    train_all,
)

from eatnas_db.domain.architecture import PRIMITIVES, Architecture, Block
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.rng import derive_seed
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec

Row = dict[str, Any]
SAMPLERS: Final = {
    # The population of the arms. With Optuna's default of 50, the whole budget would be random search.
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(population_size=LARGE["evolution"]["population"], seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
}
COLUMNS: Final = (
    *("arm", "seed", "search", "kind", "id", "birth", "replica", "parent_id", "fitness"),
    *("params", "mult_adds", "device_seconds", "code"),
)


def suggest_architecture(trial: Trial, blocks: int) -> Architecture:
    def suggest_block(position: int) -> Block:
        return Block(
            **{name: trial.suggest_categorical(f"{name}{position}", values) for name, values in PRIMITIVES.items()}
        )

    return Architecture(tuple(suggest_block(position) for position in range(blocks)))


def open_study(sampler: str, seed: int, home: Path) -> optuna.Study:
    """Create or continue a study, and mark the unfinished trials of an interrupted run as failed."""
    study = optuna.create_study(
        storage=f"sqlite:///{home}/optuna.db",
        sampler=SAMPLERS[sampler](seed),
        study_name=f"{sampler}-{seed}",
        direction="maximize",
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def run_study(study: optuna.Study, seed: int, spec: SearchSpec, home: Path, slots: int) -> list[Row]:
    """Train networks until the budget is used, and return their rows in the order of the trials."""
    macro = spec.macro()
    space = Space(macro, task_of(spec), Limits(None, spec.objective.max_mult_adds))
    budget = spec.budget.candidates
    rows: list[Row] = [trial.user_attrs for trial in study.get_trials(states=(TrialState.COMPLETE,))]
    digests = {row["digest"] for row in rows}
    running: dict[Future[TrainingResult], tuple[Trial, Row]] = {}
    with new_pool(slots) as pool:
        while len(rows) < budget:
            while len(running) < min(slots, budget - len(rows)):
                trial = study.ask()
                proposal = space.propose(suggest_architecture(trial, len(macro.base)))
                if proposal.digest in digests or not space.limits.allow(proposal.cost):
                    study.tell(trial, state=TrialState.FAIL)
                    continue
                digests.add(proposal.digest)
                code = str(proposal.effective)
                costs = {"params": proposal.cost.params, "mult_adds": proposal.cost.mult_adds}
                row = {"digest": proposal.digest, "id": trial.number, "code": code, **costs}
                folder = home / study.study_name
                assign = new_assignment(spec, trial.number, code, derive_seed(seed, "training"), folder)
                running[pool.submit(train, assign)] = trial, row
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial, row = running.pop(future)
                result = future.result()
                row |= {"fitness": result["val_accuracy"], "device_seconds": result["device_seconds"]}
                for key, value in row.items():
                    trial.set_user_attr(key, value)
                study.tell(trial, row["fitness"])
                rows.append(row)
                print(f"{study.study_name}: {len(rows)}/{budget}, {row['fitness']:.4f}", flush=True)
    return sorted(rows, key=lambda row: row["id"])


def reevaluate(rows: Sequence[Row], spec: SearchSpec, results: ResultsByName, home: Path, slots: int) -> list[Row]:
    """Train the best networks of a study again with new seeds, and return a row for each training."""
    best = sorted(rows, key=lambda row: -row["fitness"])[: spec.reevaluation.top]
    trainings = {
        f"{row['search']}-{row['id']}-{replica}": (row, replica)
        for row in best
        for replica in range(spec.reevaluation.seeds)
    }
    assignments = [
        (
            name,
            new_assignment(
                spec,
                1_000_000 + row["id"] * 10 + replica,
                row["code"],
                derive_seed(row["seed"], "yardstick of a rival", row["id"], replica),
                home / row["search"],
            ),
        )
        for name, (row, replica) in trainings.items()
    ]
    train_all(assignments, results, slots)
    return [
        {
            **{key: row[key] for key in ("arm", "seed", "search", "code", "params", "mult_adds")},
            "kind": "reevaluation",
            "parent_id": row["id"],
            "replica": replica,
            "fitness": results.results[name]["val_accuracy"],
            "device_seconds": results.results[name]["device_seconds"],
        }
        for name, (row, replica) in trainings.items()
    ]


def main() -> None:
    parser = common_options(__doc__)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    home = options.home.absolute() / "baselines"
    home.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    spec = parse_arm_spec(LARGE, options.data_root)
    results = ResultsByName(home / "reevaluations.jsonl")
    for seed in options.seeds:
        for sampler in options.samplers:
            arm = f"optuna-{sampler}"
            labels = {"arm": arm, "seed": seed, "search": f"{sampler}-{seed}", "kind": "search"}
            trained = run_study(open_study(sampler, seed, home), seed, spec, home, options.slots)
            rows = [{**labels, "birth": birth, **row} for birth, row in enumerate(trained)]
            rows += reevaluate(rows, spec, results, home, options.slots)
            file = options.out / f"{arm}-{seed}.csv"
            with file.open("w", newline="") as target:
                writer = csv.DictWriter(target, COLUMNS, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)
            print(f"{file}: {len(rows)} rows", flush=True)


if __name__ == "__main__":
    main()
