"""The common parts of all measurements: the histories, new databases, and the file of results."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from eatnas_db.database.transactions import transaction
from eatnas_db.schema.searches import search
from scaling.candidates import EPOCHS, new_record
from scaling.synthetic_histories import SPARE_CANDIDATES, SyntheticHistories

KINDS = ("sqlite", "postgresql")


@dataclass(frozen=True)
class Scale:
    """The sizes of a run, its histories, and its file of results."""

    histories: SyntheticHistories
    results: Path
    sizes: tuple[int, ...]
    kinds: tuple[str, ...]
    pairs: int
    """The number of repetitions of a measurement."""

    def read_results(self) -> list[dict[str, Any]]:
        lines = self.results.read_text().splitlines() if self.results.exists() else []
        return [json.loads(line) for line in lines]

    def append(self, figure: str, **values: Any) -> None:
        """Append a result, with the load of the machine, and print it."""
        load = round(os.getloadavg()[0] / (os.cpu_count() or 1), 1)
        line = {"figure": figure, **{key: _rounded(value) for key, value in values.items()}, "load_per_core": load}
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    @contextmanager
    def fresh_databases(self, kind: str, name: str, count: int, candidates: int | None = None) -> Iterator[list[str]]:
        """Yield the URLs of new databases with one search. `candidates` is the budget of the search if it is given."""
        with tempfile.TemporaryDirectory(dir=self.histories.folder) as folder:
            urls = []
            for number in range(count):
                file = f"sqlite:///{folder}/{name}{number}.db"
                urls.append(file if kind == "sqlite" else self.histories.server.create(f"{name}{number}"))
                engine = new_record(urls[-1], 2 * SPARE_CANDIDATES)
                if candidates is not None:
                    with transaction(engine) as connection:
                        spec = connection.execute(select(search.c.spec)).scalar_one()
                        spec["training"]["epochs"] = EPOCHS
                        connection.execute(search.update().values(budget_candidates=candidates, spec=spec))
                engine.dispose()
            yield urls
        if kind == "postgresql":
            for number in range(count):
                self.histories.server.drop(f"{name}{number}")


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
