"""Seconds of one core that an epoch of every network in the arms' tables takes: the compute of the comparison.

    python benchmarks/evidence/timing.py

Processor time, measured here once for each network, so that what else the machine did in a search does not matter.
Goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from arms import LARGE, SMALL
from trainings import assignment, parsed, seconds_per_epoch


def is_small(search: str) -> bool:
    return search.startswith("small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".eatnas-evidence"))
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"))
    parser.add_argument("--data-root", default="/usr/share/datasets/fashion-mnist", help="folder of the IDX files")
    asked = parser.parse_args()
    file = asked.out / "timing.csv"
    specs = {small: parsed(SMALL if small else LARGE, asked.data_root) for small in (False, True)}
    known = set()
    if file.exists():
        with file.open(newline="") as source:
            known = {(row["task"], row["code"]) for row in csv.DictReader(source)}
    wanted = {
        ("small" if is_small(row["search"]) else "large", row["code"]): is_small(row["search"])
        for table in sorted(asked.out.glob("*-[0-9].csv"))
        for row in csv.DictReader(table.open(newline=""))
        if row["kind"] == "search"
    }
    with file.open("a", newline="") as sink:
        writer = csv.writer(sink)
        if not known:
            writer.writerow(["task", "code", "seconds_per_epoch"])
        for number, ((task, code), small) in enumerate(sorted(wanted.items()), 1):
            if (task, code) in known:
                continue
            assign = assignment(specs[small], 0, code, 0, asked.home.absolute() / "timing")
            writer.writerow([task, code, f"{seconds_per_epoch(assign):.4f}"])
            sink.flush()
            print(f"\r{number}/{len(wanted)}", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
