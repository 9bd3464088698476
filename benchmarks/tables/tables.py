"""Published tables of trained networks as search spaces."""

from __future__ import annotations

import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eatnas_db.domain.rng import KeyedRng
from eatnas_db.guidance.encoding import Encoding

Code = tuple[int, ...]


def _read(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a table. Exit with a one-line message if the file is missing or is not a table."""
    try:
        with np.load(file) as stored:
            content = dict(stored)
        codes, levels = content["X"], content["levels"]
        scores = [content["sel"], content["true"], *(content[name] for name in ("short",) if name in content)]
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        sys.exit(f"{file} is not a table: {error}; see docs/experiments/tables.md")
    fits = codes.ndim == 2 and len(codes) > 0 and codes.shape[1] == len(levels)
    if not fits or (codes < 0).any() or (codes >= levels).any():
        sys.exit(f"{file} is not a table: the codes in X do not fit the numbers of values in levels")
    if any(len(column) != len(codes) or not np.isfinite(column).all() for column in scores):
        sys.exit(f"{file} is not a table: sel, true and short need a finite score for each code in X")
    return content


@dataclass(frozen=True)
class Table:
    """A table of networks: the scores that a search sees, the true scores, and their ranks (`true_ranks`, the best is
    1).
    """

    name: str
    levels: tuple[int, ...]
    row_of: dict[Code, int]
    scores: np.ndarray
    true: np.ndarray
    true_ranks: np.ndarray
    short: np.ndarray | None = None
    """The scores after short trainings."""
    costs: np.ndarray | None = None
    """The parameters and mult-adds."""

    @classmethod
    def load(cls, file: Path) -> Table:
        """Read a table in the format of `docs/experiments/tables.md`."""
        content = _read(file)
        costs = content.get("cost")
        codes = [tuple(map(int, row)) for row in content["X"]]
        order = np.argsort(-content["true"], kind="stable")
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(1, len(order) + 1)
        return cls(
            name=file.stem,
            levels=tuple(map(int, content["levels"])),
            row_of={code: row for row, code in enumerate(codes)},
            scores=content["sel"],
            true=content["true"],
            true_ranks=ranks,
            short=content.get("short"),
            costs=costs if costs is not None and costs.shape[1] == 2 else None,
        )

    def with_noise(self, spread: float, seed: int) -> Table:
        """Return the table with one column of scores: the true scores plus normal noise of this standard deviation."""
        noise = np.random.default_rng(seed).normal(0, spread, len(self.true))
        return replace(self, scores=(self.true + noise)[:, None])

    def with_scores(self, scores: np.ndarray) -> Table:
        """Return the table with other scores for searches, which are still judged by the same true scores."""
        return replace(self, scores=scores)

    @property
    def encoding(self) -> Encoding:
        """The encoding of the codes: all positions have the same unordered values."""
        count = len(self.levels)
        return Encoding(self.levels, (False,) * count, (0,) * count)

    def sample(self, rng: KeyedRng) -> Code:
        """Return a random code of the table."""
        while (code := tuple(rng.randbelow(level) for level in self.levels)) not in self.row_of:
            pass
        return code

    def neighbours(self, code: Code) -> list[Code]:
        """Return every code of the table that differs in one position."""
        changed = (
            (*code[:position], value, *code[position + 1 :])
            for position, level in enumerate(self.levels)
            for value in range(level)
            if value != code[position]
        )
        return [other for other in changed if other in self.row_of]

    def mutate(self, code: Code, count: int, rng: KeyedRng) -> Code | None:
        """Return a code that differs in `count` positions, or None if the table does not contain it."""
        mutant = list(code)
        for position in rng.sample(len(code), count):
            mutant[position] = rng.choice([value for value in range(self.levels[position]) if value != code[position]])
        return tuple(mutant) if tuple(mutant) in self.row_of else None
