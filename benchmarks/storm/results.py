"""The file of results, from which an interrupted storm continues, and the table at the end."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storm.faults import FAULTS
from storm.workloads import WORKLOADS

Line = dict[str, Any]
"""A fault (with `fault` and `hit`) or a whole round (with `lost`, `doubled`, `differing` and `problems`)."""
VIOLATIONS = ("lost", "doubled", "differing")


class ResultsFile:
    """The lines of all rounds. Without a path, the lines are kept only in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.lines: list[Line] = []
        if path is not None and path.exists():
            self.lines = [json.loads(line) for line in path.read_text().splitlines()]

    def append_round(self, lines: Sequence[Line]) -> None:
        """Add the lines of a finished round. An interrupted round leaves nothing behind."""
        self.lines += lines
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)

    def next_round(self, workload: str) -> int:
        rounds = (line["round"] for line in self.lines if line["workload"] == workload and "lost" in line)
        return 1 + max(rounds, default=0)

    def remaining(self, wanted: dict[str, int], workload: str) -> list[str]:
        """Return the faults that must still hit: each fault once for each hit that is missing from `wanted`."""
        hits = Counter(line["fault"] for line in self.lines if line["workload"] == workload and line.get("hit"))
        return [fault for fault, count in wanted.items() for _ in range(count - hits[fault])]

    def print_table(self) -> int:
        """Print all results and return the exit status: 0 if nothing is lost, doubled or different."""
        print(f"\n{'':30}{'faults':>7}{'hits':>6}   recovery (s): median, max   repeated (s): median, max")
        for workload in WORKLOADS:
            for fault in FAULTS:
                lines = [line for line in self.lines if line.get("fault") == fault and line["workload"] == workload]
                if lines:
                    hits = [line for line in lines if line["hit"]]
                    name = f"{fault} ({workload})"
                    recovery, repeated = _spread(hits, "recovery_seconds"), _spread(hits, "repeated_seconds")
                    print(f"{name:30}{len(lines):7}{len(hits):6}   {recovery:25}   {repeated}")
        orphans = [line["orphan_seconds"] for line in self.lines if line.get("orphan_seconds") is not None]
        if orphans:
            print(f"a worker outlived its daemon by {max(orphans):.1f} s at most")
        rounds = [line for line in self.lines if "lost" in line]
        hit_count = sum(bool(line.get("hit")) for line in self.lines)
        sums = ", ".join(f"{sum(line[word] for line in rounds)} {word}" for word in VIOLATIONS)
        print(f"{hit_count} faults in {len(rounds)} searches: {sums}")
        problems = [f"round {line['round']}: {problem}" for line in rounds for problem in line["problems"]]
        print("\n".join(problems))
        return 1 if problems or not rounds else 0


def _spread(lines: Sequence[Line], name: str) -> str:
    values = [line[name] for line in lines if line.get(name) is not None]
    return f"{statistics.median(values):.1f}, {max(values):.1f}" if values else "-"
