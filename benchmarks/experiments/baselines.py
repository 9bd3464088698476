"""Optuna's NSGA-II and TPE on the arms' space, recipe, images and budget. Needs `pip install optuna`.

    python benchmarks/experiments/baselines.py --samplers nsga2 tpe --seeds 1 2

A code over the limit, or one whose network was trained already, is told to Optuna as a failed trial and costs nothing.
The winners go through the same yardstick. Goes on where it was stopped.
"""

from __future__ import annotations

import csv
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, Final

import optuna
from arms import LARGE, options
from optuna.trial import Trial, TrialState
from trainings import Kept, assignment, parsed, pool, task_of, train_all, trained

from eatnas_db.domain.architecture import PRIMITIVES, Architecture, Block
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.rng import derive_seed
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec

SAMPLERS: Final = {
    # As many as our population: its own default, 50, would be random search for the whole of this budget.
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(population_size=LARGE["evolution"]["population"], seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
}


COLUMNS: Final = (
    *("arm", "seed", "search", "kind", "id", "birth", "replica", "parent_id", "fitness"),
    *("params", "mult_adds", "device_seconds", "code"),
)


def suggested(trial: Trial, blocks: int) -> Architecture:
    def one(position: int) -> Block:
        return Block(
            **{name: trial.suggest_categorical(f"{name}{position}", values) for name, values in PRIMITIVES.items()}
        )

    return Architecture(tuple(map(one, range(blocks))))


def search(sampler: str, seed: int, spec: SearchSpec, home: Path, slots: int) -> list[dict[str, Any]]:
    """The trained networks in the order that they were asked for."""
    macro = spec.macro()
    space = Space(macro, task_of(spec), Limits(None, spec.objective.max_mult_adds))
    study = optuna.create_study(
        storage=f"sqlite:///{home}/optuna.db",
        sampler=SAMPLERS[sampler](seed),
        study_name=f"{sampler}-{seed}",
        direction="maximize",
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):  # of a run that was killed
        study.tell(trial.number, state=TrialState.FAIL)
    rows: list[dict[str, Any]] = [trial.user_attrs for trial in study.get_trials(states=(TrialState.COMPLETE,))]
    held = {row["digest"] for row in rows}
    training: dict[Future[Any], tuple[Trial, dict[str, Any]]] = {}
    with pool(slots) as workers:
        while len(rows) < spec.budget.candidates:
            while len(training) < min(slots, spec.budget.candidates - len(rows)):
                trial = study.ask()
                proposal = space.propose(suggested(trial, len(macro.base)))
                if proposal.digest in held or not space.limits.allow(proposal.cost):
                    study.tell(trial, state=TrialState.FAIL)
                    continue
                held.add(proposal.digest)
                row = {
                    "digest": proposal.digest,
                    "id": trial.number,
                    "code": str(proposal.effective),
                    "params": proposal.cost.params,
                    "mult_adds": proposal.cost.mult_adds,
                }
                assign = assignment(
                    spec, trial.number, row["code"], derive_seed(seed, "training"), home / study.study_name
                )
                training[workers.submit(trained, assign)] = trial, row
            for done in wait(training, return_when=FIRST_COMPLETED).done:
                trial, row = training.pop(done)
                result = done.result()
                row |= {"fitness": result["val_accuracy"], "device_seconds": result["device_seconds"]}
                for key, value in row.items():
                    trial.set_user_attr(key, value)
                study.tell(trial, row["fitness"])
                rows.append(row)
                print(f"{study.study_name}: {len(rows)}/{spec.budget.candidates}, {row['fitness']:.4f}", flush=True)
    return sorted(rows, key=lambda row: row["id"])


def again(rows: list[dict[str, Any]], spec: SearchSpec, kept: Kept, home: Path, slots: int) -> list[dict[str, Any]]:
    """The best of a search trained again with fresh seeds, as the arms' yardsticks do."""
    winners = sorted(rows, key=lambda row: -row["fitness"])[: spec.yardstick.top]
    trainings = {
        f"{row['search']}-{row['id']}-{replica}": (row, replica)
        for row in winners
        for replica in range(spec.yardstick.seeds)
    }
    asked = [
        (
            name,
            assignment(
                spec,
                1_000_000 + row["id"] * 10 + replica,
                row["code"],
                derive_seed(row["seed"], "yardstick of a rival", row["id"], replica),
                home / row["search"],
            ),
        )
        for name, (row, replica) in trainings.items()
    ]
    train_all(asked, kept, slots)
    return [
        {
            **{key: row[key] for key in ("arm", "seed", "search", "code", "params", "mult_adds")},
            "kind": "yardstick",
            "parent_id": row["id"],
            "replica": replica,
            "fitness": kept.results[name]["val_accuracy"],
            "device_seconds": kept.results[name]["device_seconds"],
        }
        for name, (row, replica) in trainings.items()
    ]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    home = asked.home.absolute() / "rivals"
    home.mkdir(parents=True, exist_ok=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    spec = parsed(LARGE, asked.data_root)
    kept = Kept(home / "yardstick.jsonl")
    for seed in asked.seeds:
        for sampler in asked.samplers:
            arm = f"optuna-{sampler}"
            told = {"arm": arm, "seed": seed, "search": f"{sampler}-{seed}", "kind": "search"}
            found = search(sampler, seed, spec, home, asked.slots)
            rows = [{**told, "birth": birth, **row} for birth, row in enumerate(found)]
            rows += again(rows, spec, kept, home, asked.slots)
            file = asked.out / f"{arm}-{seed}.csv"
            with file.open("w", newline="") as sink:
                writer = csv.DictWriter(sink, COLUMNS, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)
            print(f"{file}: {len(rows)} rows", flush=True)


if __name__ == "__main__":
    main()
