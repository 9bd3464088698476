"""Does elastic transfer pay? Searches on Fashion-MNIST, arm by arm, each resumable, each result a row of a CSV.

    python benchmarks/experiments/arms.py noise    # one network's spread and the networks' spread
    python benchmarks/experiments/arms.py arms     # random, scratch, transfer, … with paired seeds
    python benchmarks/experiments/arms.py arms --arms after-16 blocks-2    # what else a transfer may be: `variations`
    python benchmarks/experiments/arms.py final    # their winners, trained longer and looked at once on the test part

What is finished is not repeated: run it again after a kill. Compute is device seconds and images x mult-adds, the
small search counted in.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from sqlalchemy import func, select

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.queries.final_models import list_final_models
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.searches import get_search, list_searches
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import epoch
from eatnas_db.settings import Settings, load_settings

MOBILENET: Final = "sep_k3_d1_w1.0_skip/" + "/".join(f"mb6_k3_d{depth}_w1.0_skip" for depth in (2, 3, 4, 3, 3, 1))
"""MobileNetV2's blocks, in the space's own words."""
LARGE: Final[dict[str, Any]] = {
    "space": "eatnas-small",
    "data": {"name": "FashionMNIST", "train_images": 6000, "validation_images": 5000},
    "training": {"epochs": 3, "batch_size": 64, "learning_rate": 0.2, "augment": "none"},
    "evolution": {"population": 12, "tournament": 6, "lag": 4},
    "objective": {"max_mult_adds": 6_000_000},
    "budget": {"candidates": 40},
    "yardstick": {"top": 3, "seeds": 3},
}
SMALL: Final[dict[str, Any]] = {
    **LARGE,
    "data": {**LARGE["data"], "resolution": 14, "train_images": 2000},
    "objective": {"max_mult_adds": 1_550_000},
    "evolution": {"population": 8, "tournament": 4, "lag": 4},
    "budget": {"candidates": 32},
    "yardstick": {"top": 2, "seeds": 2},
}
TRANSFERRED: Final[dict[str, Any]] = {
    "evolution": {"population": 8, "tournament": 4, "lag": 4},
    "transfer": {"blocks": 3},
}
INHERITING: Final[dict[str, Any]] = {"inheritance": {"weights": "inherited", "epochs": 1}}


@dataclass(frozen=True, slots=True)
class Step:
    """One search of an arm; `source` is the search that it is transferred from."""

    name: str
    spec: dict[str, Any]
    source: str | None = None


def merged(base: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    whole = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for change in changes:
        for key, value in change.items():
            whole[key] = {**whole.get(key, {}), **value} if isinstance(value, dict) else value
    return whole


def arms(seed: int) -> dict[str, list[Step]]:
    """Every arm's searches, in order. Those that share a small search share its name, and so its result."""
    small = Step(f"small-{seed}", {**SMALL, "seed": seed})
    random_start = merged(LARGE, {"budget": {"candidates": 8}, "evolution": {"population": 8}, "yardstick": {"top": 0}})
    small_inherits = Step(f"small-inherits-{seed}", merged(SMALL, INHERITING, {"seed": seed}))

    def large(name: str, *changes: dict[str, Any], source: str | None = None) -> Step:
        return Step(f"{name}-{seed}", merged(LARGE, *changes, {"seed": seed}), source)

    everyone = {"evolution": {"population": 40, "tournament": 1, "lag": 4}}
    own = {**TRANSFERRED, "transfer": {"blocks": 3, "basic": MOBILENET}}
    return {
        "random": [large("random", everyone)],
        "scratch": [large("scratch")],
        "transfer": [small, large("transfer", TRANSFERRED, source=small.name)],
        "handmade": [large("handmade", own)],
        "best-of-random": [
            Step(f"start-{seed}", {**random_start, "seed": seed}),
            large("best-of-random", TRANSFERRED, {"budget": {"candidates": 32}}, source=f"start-{seed}"),
        ],
        "basic-alone": [
            small,
            large(
                "basic-alone",
                {"evolution": {"population": 2, "tournament": 1, "lag": 1}, "budget": {"candidates": 2}},
                source=small.name,
            ),
        ],
        "survivors": [
            small,
            large("survivors", TRANSFERRED, {"transfer": {"start": "survivors"}}, source=small.name),
        ],
        "scratch-inherits": [large("scratch-inherits", INHERITING)],
        "transfer-inherits": [
            small_inherits,
            large("transfer-inherits", TRANSFERRED, INHERITING, source=small_inherits.name),
        ],
    }


def variations(seed: int) -> dict[str, list[Step]]:
    """Transfers with one thing changed, each ended once it has shown what it takes to reach the search from scratch."""
    small = arms(seed)["transfer"][0]

    def short(name: str, *changes: dict[str, Any], source: Step = small) -> list[Step]:
        ended = {"budget": {"candidates": 20}, "yardstick": {"top": 0}, "seed": seed}
        return [source, Step(f"{name}-{seed}", merged(LARGE, TRANSFERRED, *changes, ended), source.name)]

    def small_of(candidates: int) -> Step:
        return Step(f"small-{candidates}-{seed}", merged(small.spec, {"budget": {"candidates": candidates}}))

    return {
        "after-64": short("after-64", source=small_of(64)),
        "after-16": short("after-16", source=small_of(16)),
        "after-8": short("after-8", source=small_of(8)),
        "blocks-1": short("blocks-1", {"transfer": {"blocks": 1}}),
        "blocks-2": short("blocks-2", {"transfer": {"blocks": 2}}),
        "population-12": short("population-12", {"evolution": LARGE["evolution"]}),
    }


class Laboratory:
    """A home for all searches, and the command line that makes them."""

    def __init__(self, home: Path, data_root: str, slots: int, out: Path) -> None:
        self.settings: Settings = load_settings({}, str(home))
        self.data_root, self.slots, self.out = data_root, slots, out
        self.call("init")

    def call(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "eatnas_cli", "--home", str(self.settings.home), *arguments]
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)}: exit {done.returncode}")

    def known(self) -> set[str]:
        with read_transaction(open_record(self.settings.database_url)) as connection:
            return {row.name for row in list_searches(connection)}

    def make(self, step: Step) -> None:
        """Create a search if it is not there, and run it and its yardstick to their ends."""
        if step.name not in self.known():
            spec = merged(step.spec, {"name": step.name, "data": {"root": self.data_root}})
            file = self.settings.home / f"{step.name}.yaml"
            file.write_text(yaml.safe_dump(spec, sort_keys=False))
            create = ("transfer", step.source) if step.source else ("search", "create")
            self.call(*create, str(file), "--slots", str(self.slots))
        self.call("run", step.name, "--slots", str(self.slots))

    def write(self, name: str, labels: dict[str, Any], searches: list[str]) -> None:
        """Every scored candidate of these searches and of their yardsticks, as rows of a CSV."""
        self.out.mkdir(parents=True, exist_ok=True)
        with read_transaction(open_record(self.settings.database_url)) as connection:
            ids = [get_search(connection, one).id for one in searches]
            rows = [dict(row._mapping) for row in connection.execute(_rows(ids))]
        file = self.out / f"{name}.csv"
        with file.open("w", newline="") as sink:
            writer = csv.DictWriter(sink, [*labels, *rows[0]])
            writer.writeheader()
            writer.writerows({**labels, **row} for row in rows)
        print(f"{file}: {len(rows)} rows", flush=True)


def _rows(ids: list[int]) -> Any:
    trained = select(func.sum(epoch.c.seconds)).where(epoch.c.candidate_id == candidate.c.id).scalar_subquery()
    return (
        select(
            search.c.name.label("search"),
            search.c.kind,
            candidate.c.id,
            candidate.c.birth,
            candidate.c.replica,
            candidate.c.origin,
            candidate.c.parent_id,
            candidate.c.fitness,
            candidate.c.accuracy.label("val_accuracy"),
            candidate.c.params,
            candidate.c.mult_adds,
            candidate.c.lineage_epochs,
            candidate.c.share_inherited,
            trained.label("device_seconds"),
            candidate.c.joined,
            candidate.c.left,
            candidate.c.code,
        )
        .join(search, search.c.id == candidate.c.search_id)
        .where(search.c.id.in_(ids) | search.c.source_id.in_(ids) & (search.c.kind == "yardstick"))
        .order_by(search.c.id, candidate.c.birth)
    )


def noise(laboratory: Laboratory, name: str, networks: int, seeds: int, training: dict[str, Any]) -> None:
    """So many random networks, each trained with so many seeds: how far scores of one differ, and of all."""
    spec = merged(
        LARGE,
        {
            "training": training,
            "seed": 100,
            "evolution": {"population": networks, "tournament": 1, "lag": networks},
            "budget": {"candidates": networks},
            "yardstick": {"top": networks, "seeds": seeds},
        },
    )
    laboratory.make(Step(name, spec))
    laboratory.write(name, {"experiment": name}, [name])
    with (laboratory.out / f"{name}.csv").open(newline="") as source:
        rows = [row for row in csv.DictReader(source) if row["kind"] == "yardstick"]
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["parent_id"], []).append(float(row["fitness"]))
    within = math.sqrt(statistics.fmean(statistics.variance(own) for own in scores.values()))
    between = statistics.stdev(map(statistics.fmean, scores.values()))
    print(f"{name}: one network's scores spread by {within:.4f}, the networks' means by {between:.4f}")
    print(f"    ratio {between / within:.2f}; {len(scores)} networks, {len(rows)} trainings")


def final(laboratory: Laboratory, asked: list[tuple[str, int]], epochs: int, seeds: int) -> None:
    """The winner of every arm and seed by one longer recipe on all training images; rows of `final.csv`."""
    rows = []
    for arm, seed in asked:
        name = arms(seed)[arm][-1].name
        if f"{name}.final" not in laboratory.known():
            laboratory.call("search", "final", name, "--epochs", str(epochs), "--seeds", str(seeds))
        laboratory.call("run", f"{name}.final", "--slots", str(laboratory.slots))
        with read_transaction(open_record(laboratory.settings.database_url)) as connection:
            winner = get_best(connection, get_search(connection, name).id)
            assert winner is not None
            tested = list_final_models(connection, [winner.id])
        same = (arm, seed, winner.id)
        rows += [(*same, model.replica, model.accuracy, winner.mult_adds, winner.code) for model in tested]
        with (laboratory.out / "final.csv").open("w", newline="") as sink:
            writer = csv.writer(sink)
            writer.writerow(["arm", "seed", "candidate", "replica", "test_accuracy", "mult_adds", "code"])
            writer.writerows(rows)


def options(about: str | None) -> argparse.ArgumentParser:
    """What all programs of the evidence have in common: where searches, tables and images are."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".eatnas-experiments"))
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"))
    parser.add_argument("--data-root", default="/usr/share/datasets/fashion-mnist", help="folder of the IDX files")
    return parser


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("what", choices=["noise", "arms", "final"])
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--arms", nargs="+", default=list(arms(1)), choices=[*arms(1), *variations(1)])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--name", default="noise", help="of the search that measures the noise")
    parser.add_argument("--training", nargs="*", default=[], metavar="KEY=VALUE", help="another recipe for it")
    parser.add_argument("--networks", type=int, default=6)
    parser.add_argument("--noise-seeds", type=int, default=8)
    parser.add_argument("--final-epochs", type=int, default=6)
    parser.add_argument("--final-seeds", type=int, default=2)
    asked = parser.parse_args()
    laboratory = Laboratory(asked.home.absolute(), asked.data_root, asked.slots, asked.out)
    if asked.what == "noise":
        training = {key: yaml.safe_load(value) for key, value in (pair.split("=", 1) for pair in asked.training)}
        noise(laboratory, asked.name, asked.networks, asked.noise_seeds, training)
        return
    if asked.what == "final":
        if others := set(asked.arms) - set(arms(1)):
            parser.error(f"variations have no winner: {', '.join(sorted(others))}")
        chosen = [(arm, seed) for seed in asked.seeds for arm in asked.arms]
        final(laboratory, chosen, asked.final_epochs, asked.final_seeds)
        return
    for seed in asked.seeds:
        every = arms(seed) | variations(seed)
        for arm in asked.arms:
            steps = every[arm]
            for step in steps:
                laboratory.make(step)
            laboratory.write(f"{arm}-{seed}", {"arm": arm, "seed": seed}, [step.name for step in steps])


if __name__ == "__main__":
    main()
