"""The file of a comparison's results: a JSON line for each search. An interrupted program continues the file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

Line = dict[str, Any]
Run = TypeVar("Run", bound=tuple[Any, ...])
"""A named tuple of everything that a result depends on. Its fields are keys of the line."""


def read_lines(file: Path) -> list[Line]:
    """Return the lines of a file, or no lines if the file does not exist."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def add_missing(
    file: Path, run_type: type[Run], wanted: Iterable[Run], measure: Callable[[Run], Line], *, processes: int = 1
) -> list[Line]:
    """Append the results of the runs that the file lacks, and return all lines.

    A line may lack fields that have a default.
    """
    lines = read_lines(file)
    fields: tuple[str, ...] = run_type._fields  # type: ignore[attr-defined]
    known = {run_type(**{field: line[field] for field in fields if field in line}) for line in lines}
    missing = [run for run in wanted if run not in known]
    with ProcessPoolExecutor(processes) as pool, file.open("a", encoding="utf-8") as out:
        for number, line in enumerate(pool.map(measure, missing), 1):
            out.write(json.dumps(line) + "\n")
            out.flush()
            lines.append(line)
            print(f"\r{number}/{len(missing)} searches", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return lines
