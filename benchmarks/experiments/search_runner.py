"""Run the searches of the experiments in one home, and write their candidates to CSV files."""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arm_specs import ArmSearch, merge
from sqlalchemy import Select, func, select

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.queries.final_models import list_final_models
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.searches import get_search, list_searches
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import epoch
from eatnas_db.settings import load_settings


def common_options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all experiments share: the folders of searches, tables and images."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".eatnas-experiments"), help="home folder of the searches")
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"), help="folder of the tables")
    parser.add_argument(
        "--data-root", default="/usr/share/datasets/fashion-mnist", help="folder of the IDX files of Fashion-MNIST"
    )
    return parser


class SearchRunner:
    """Runs searches through the command line. Finished searches are not repeated."""

    def __init__(self, home: Path, data_root: str, slots: int, out: Path) -> None:
        self.settings = load_settings({}, str(home))
        self.data_root, self.slots, self.out = data_root, slots, out
        self.call("init")

    def call(self, *arguments: str) -> None:
        """Run a command of eatnas-db; exit if the command fails."""
        command = [sys.executable, "-m", "eatnas_cli", "--home", str(self.settings.home), *arguments]
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)}: exit status {done.returncode}")

    def existing_searches(self) -> set[str]:
        with read_transaction(open_record(self.settings.database_url)) as connection:
            return {row.name for row in list_searches(connection)}

    def run(self, arm_search: ArmSearch) -> None:
        """Create a search if it does not exist, and run it to the end, including its re-evaluation."""
        name = arm_search.name
        if name not in self.existing_searches():
            spec = merge(arm_search.spec, {"name": name, "data": {"root": self.data_root}})
            file = self.settings.home / f"{name}.yaml"
            file.write_text(json.dumps(spec, indent=2))
            create = ("transfer", arm_search.source) if arm_search.source else ("search", "create")
            self.call(*create, str(file), "--slots", str(self.slots))
        self.call("run", name, "--slots", str(self.slots))

    def run_final(self, name: str, epochs: int, seeds: int) -> list[tuple[int, int, float | None, int, str]]:
        """Train the winner of a search as final models.

        Return the candidate, replica, test accuracy, mult-adds and code of each model.
        """
        if f"{name}.final" not in self.existing_searches():
            self.call("search", "final", name, "--epochs", str(epochs), "--seeds", str(seeds))
        self.call("run", f"{name}.final", "--slots", str(self.slots))
        with read_transaction(open_record(self.settings.database_url)) as connection:
            winner = get_best(connection, get_search(connection, name).id)
            assert winner is not None
            models = list_final_models(connection, [winner.id])
        return [(winner.id, model.replica, model.accuracy, winner.mult_adds, winner.code) for model in models]

    def write_candidates(self, name: str, labels: dict[str, Any], searches: Sequence[str]) -> Path:
        """Write the candidates of searches and re-evaluations to a CSV file. Each row starts with the labels."""
        self.out.mkdir(parents=True, exist_ok=True)
        with read_transaction(open_record(self.settings.database_url)) as connection:
            ids = [get_search(connection, search_name).id for search_name in searches]
            rows = [dict(row._mapping) for row in connection.execute(_candidates_of(ids))]
        file = self.out / f"{name}.csv"
        with file.open("w", newline="") as target:
            writer = csv.DictWriter(target, [*labels, *rows[0]])
            writer.writeheader()
            writer.writerows({**labels, **row} for row in rows)
        print(f"{file}: {len(rows)} rows", flush=True)
        return file


def _candidates_of(search_ids: Sequence[int]) -> Select[Any]:
    seconds = select(func.sum(epoch.c.seconds)).where(epoch.c.candidate_id == candidate.c.id).scalar_subquery()
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
            seconds.label("device_seconds"),
            candidate.c.joined,
            candidate.c.left,
            candidate.c.code,
        )
        .join(search, search.c.id == candidate.c.search_id)
        .where(search.c.id.in_(search_ids) | search.c.source_id.in_(search_ids) & (search.c.kind == "reevaluation"))
        .order_by(search.c.id, candidate.c.birth)
    )
