"""Compare a search for two objectives and a search for one scalar fitness, at equal device seconds.

    python benchmarks/experiments/several_objectives.py --slots 1

Both arms search for accurate networks with few mult-adds, on the digits that come with scikit-learn. The arm `pareto`
has accuracy and mult-adds as objectives. The arm `scalar` combines them into one fitness as MnasNet does, with the
mult-adds of an average network as the target. The program writes a row for each scored candidate, with the hypervolume
of all candidates so far. The hypervolume covers accuracies above 0 and mult-adds below `REFERENCE`, scaled to a value
between 0 and 1. Seeds whose rows are already in the table are not repeated, and neither are finished searches.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from arm_specs import ArmSearch
from search_runner import SearchRunner, common_options
from sqlalchemy import select

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.dominance import hypervolume
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import step

REFERENCE: Final = 5_000_000
"""The mult-adds of the reference point. Few networks of the space need more for these images."""
TARGET: Final = 1_500_000
ARMS: Final[dict[str, dict[str, Any]]] = {
    "pareto": {"metrics": [{"metric": "val_accuracy"}, {"metric": "mult_adds", "reference": REFERENCE}]},
    "scalar": {"target_mult_adds": TARGET},
}
SPEC: Final[dict[str, Any]] = {
    "space": "eatnas-tiny",
    "data": {"name": "digits", "train_images": 700},
    "training": {"epochs": 2, "batch_size": 32, "learning_rate": 0.1, "augment": "none"},
    "evolution": {"population": 8, "tournament": 4, "lag": 2},
    "budget": {"candidates": 32},
    "reevaluation": {"top": 0},
}
FIELDS: Final = ("arm", "seed", "birth", "accuracy", "mult_adds", "device_seconds", "hypervolume")


def spec_of(arm: str, seed: int, candidates: int) -> dict[str, Any]:
    """Return the spec of one search."""
    return {**SPEC, "seed": seed, "objective": ARMS[arm], "budget": {"candidates": candidates}}


def list_curve(runner: SearchRunner, name: str) -> list[tuple[int, float, int, float, float]]:
    """Return a row for each scored birth: birth, accuracy, mult-adds, device seconds so far, hypervolume so far."""
    with read_transaction(open_record(runner.settings.database_url)) as connection:
        search_id = get_search(connection, name).id
        query = (
            select(candidate.c.birth, candidate.c.accuracy, candidate.c.mult_adds, step.c.device_seconds)
            .join(step, (step.c.search_id == candidate.c.search_id) & (step.c.number == candidate.c.birth + 1))
            .where(candidate.c.search_id == search_id, candidate.c.accuracy.is_not(None))
            .order_by(candidate.c.birth)
        )
        rows = connection.execute(query).all()
    points: list[tuple[float, ...]] = []
    curve = []
    for birth, accuracy, mult_adds, seconds in rows:
        points.append((accuracy, 1 - mult_adds / REFERENCE))
        curve.append((birth, accuracy, mult_adds, seconds, hypervolume(points, (0.0, 0.0))))
    return curve


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of the seeds for which both arms have run."""
    if not file.exists():
        return []
    with file.open(newline="") as source:
        rows = list(csv.DictReader(source))
    arms_of_seed = {seed: {row["arm"] for row in rows if row["seed"] == seed} for seed in {row["seed"] for row in rows}}
    return [row for row in rows if arms_of_seed[row["seed"]] == set(ARMS)]


def print_comparison(seed: int, rows: Iterable[dict[str, Any]]) -> None:
    """Print the hypervolume of both arms of a seed at equal device seconds."""
    own = [row for row in rows if int(row["seed"]) == seed]
    curves = {
        arm: [(float(row["device_seconds"]), float(row["hypervolume"])) for row in own if row["arm"] == arm]
        for arm in ARMS
    }
    seconds = min(curve[-1][0] for curve in curves.values())
    for arm, curve in curves.items():
        reached = max((volume for spent, volume in curve if spent <= seconds), default=0.0)
        end = f"{curve[-1][1]:.4f} at the end after {curve[-1][0]:.1f}"
        print(f"seed {seed}, {arm}: hypervolume {reached:.4f} after {seconds:.1f} device seconds, {end}", flush=True)


def main() -> None:
    """Run the searches and write the rows; print the hypervolume at equal device seconds."""
    parser = common_options(__doc__)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=SPEC["budget"]["candidates"])
    options = parser.parse_args()
    file = options.out / "several-objectives.csv"
    rows = read_rows(file)
    for seed in range(1, options.seeds + 1):
        if all(int(row["seed"]) != seed for row in rows):
            runner = SearchRunner(options.home, str(Path.cwd()), options.slots, options.out)
            for arm in ARMS:
                name = f"{arm}-{seed}"
                runner.run(ArmSearch(name, spec_of(arm, seed, options.candidates)))
                rows += [dict(zip(FIELDS, (arm, seed, *row), strict=True)) for row in list_curve(runner, name)]
            with file.open("w", newline="") as target:
                writer = csv.DictWriter(target, FIELDS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        print_comparison(seed, rows)


if __name__ == "__main__":
    main()
