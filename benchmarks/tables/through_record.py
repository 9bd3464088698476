"""Run searches on published tables through the whole system, and measure their births per minute.

Each search runs from a spec, through a record in SQLite, a supervisor and worker processes that look scores up. It is
repeated with each number of slots. The program ends with an error if the fingerprints differ, or if the births differ
from those that the same functions decide without a record.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy import select

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.rng import derive_seed
from eatnas_db.domain.spec import parse_spec
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.schema.candidates import candidate
from eatnas_db.searches.create import create_search
from eatnas_db.settings import load_settings
from eatnas_db.spaces import find_space
from eatnas_migrations import commands
from tables.few_epochs import train_births
from tables.methods import POPULATION, TOURNAMENT
from tables.space_methods import SpaceEvolution, SpaceGuided
from tables.spaces import CELL_TASK, MAX_PARAMS, code_of, install_space
from tables.tables import Code, Table
from tables.worker import TABLE_WORKER, column_of, table_digest

METHODS: Final[dict[str, type[SpaceEvolution]]] = {"mutation": SpaceEvolution, "guided": SpaceGuided}


class Search(NamedTuple):
    """Everything that the history of a search depends on. `keep` is the share of the candidates that continue after a
    short training.
    """

    births: str
    seed: int
    candidates: int
    lag: int
    keep: float | None

    @property
    def epochs(self) -> int:
        """The epochs of a whole training in the record; with `keep`, the first epoch stands for a short training."""
        return 1 if self.keep is None else 2

    def spec(self, space: str) -> dict[str, Any]:
        """Return the spec of the search."""
        evolution = {"population": POPULATION, "tournament": TOURNAMENT, "lag": self.lag, "births": self.births}
        if self.keep is not None:
            evolution["fidelity"] = {"rungs": [1], "keep": self.keep, "schedule": "rung"}
        return {
            "name": "s",
            "seed": self.seed,
            "space": space,
            "data": {"name": "digits"},
            "training": {"epochs": self.epochs},
            "objective": {"max_params": MAX_PARAMS},
            "evolution": evolution,
            "budget": {"candidates": self.candidates},
            "reevaluation": {"top": 0},
        }


class Outcome(NamedTuple):
    """The code and the last rung of each birth, the fingerprint, and the seconds from the start to the end."""

    births: list[tuple[Code, int]]
    fingerprint: str
    seconds: float


def run_through_record(file: Path, home: Path, search: Search, slots: int) -> Outcome:
    """Run a search in a new home."""
    settings = load_settings({}, str(home))
    home.mkdir(parents=True)
    engine = create_engine_for(settings.database_url)
    commands.upgrade(engine)
    name = install_space(home / "site", file)
    spec = parse_spec(search.spec(name), plugin_spaces=(name,))
    with transaction(engine) as connection:
        create_search(connection, spec, task=CELL_TASK, data_digest=table_digest(file), slots=slots, now=0.0)
    launcher = Launcher(settings.logs, (*TABLE_WORKER, str(file.absolute()), "--epochs", str(search.epochs)))
    record = open_record(settings.database_url)
    supervisor = Supervisor(record, settings, launcher, slots=slots, host_name="tables", only="s")
    started = time.monotonic()
    supervisor.run()
    seconds = time.monotonic() - started
    space = find_space(name)
    with read_transaction(record) as connection:
        rows = connection.execute(select(candidate.c.code, candidate.c.rung).order_by(candidate.c.birth)).all()
        fingerprint = get_fingerprint(connection, 1).sha256
    record.dispose()
    return Outcome([(code_of(space.parse(code)), rung) for code, rung in rows], fingerprint, seconds)


def decide_in_process(table: Table, search: Search) -> list[tuple[Code, int]]:
    """Return the code and the last rung of each birth of a search without a record."""
    method = METHODS[search.births](table, search.seed, search.lag)
    column = column_of(table, derive_seed(search.seed, "training"))
    births = islice(train_births(table, method, keep=search.keep, lag=search.lag, column=column), search.candidates)
    return [(birth.code, int(search.keep is not None and birth.score is not None)) for birth in births]


def measure(file: Path, search: Search, slots: Sequence[int]) -> list[dict[str, Any]]:
    """Run a search with each number of slots, and return the results of each run."""
    table = Table.load(file)
    wanted = decide_in_process(table, search)
    lines = []
    for count in slots:
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_through_record(file, Path(folder) / "home", search, count)
        measured = {
            "slots": count,
            "seconds": round(outcome.seconds, 2),
            "births_per_minute": round(60 * search.candidates / outcome.seconds),
            "as_in_process": outcome.births == wanted,
            "fingerprint": outcome.fingerprint,
        }
        lines.append({"table": table.name, **search._asdict(), **measured})
        print(json.dumps(lines[-1]), flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path, help="files of tables (*.npz)")
    parser.add_argument("--births", nargs="+", choices=sorted(METHODS), default=["mutation", "guided"])
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--lag", type=int, default=8)
    parser.add_argument(
        "--keep",
        type=float,
        help="share of the candidates that continue after a short training; default: no short trainings",
    )
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file to which the JSON lines are appended")
    options = parser.parse_args()
    differing = []
    for file, births, seed in product(options.tables, options.births, range(options.seeds)):
        search = Search(births, seed, options.candidates, options.lag, options.keep)
        lines = measure(file, search, options.slots)
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps(line) + "\n" for line in lines)
        if len({line["fingerprint"] for line in lines}) > 1 or not all(line["as_in_process"] for line in lines):
            differing.append(f"{file.stem} with {births}, seed {seed}")
    if differing:
        sys.exit(f"the histories differ: {'; '.join(differing)}")


if __name__ == "__main__":
    main()
