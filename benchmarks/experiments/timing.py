"""Seconds of one core that an epoch of every network in the arms' tables takes: the compute of the comparison.

    python benchmarks/experiments/timing.py

Processor time, measured here once for each network, so that what else the machine did in a search does not matter.
Goes on where it was stopped.
"""

from __future__ import annotations

import csv
import time

from arms import LARGE, SMALL, options
from trainings import assignment, parsed

from eatnas_training.calibrate import calibrate

CALIBRATED = ("macro", "task", "data", "training")


def is_small(search: str) -> bool:
    return search.startswith("small")


def main() -> None:
    asked = options(__doc__).parse_args()
    file = asked.out / "timing.csv"
    specs = {task: parsed(spec, asked.data_root) for task, spec in (("small", SMALL), ("large", LARGE))}
    before = file.read_text().splitlines() if file.exists() else []
    known = {(row["task"], row["code"]) for row in csv.DictReader(before)}
    wanted = {
        ("small" if is_small(row["search"]) else "large", row["code"])
        for table in asked.out.glob("*-[0-9].csv")
        for row in csv.DictReader(table.read_text().splitlines())
        if row["kind"] != "yardstick"
    }
    with file.open("a", newline="") as sink:
        writer = csv.writer(sink)
        if not before:
            writer.writerow(["task", "code", "seconds_per_epoch"])
        for number, (task, code) in enumerate(todo := sorted(wanted - known), 1):
            assign = assignment(specs[task], 0, code, 0, asked.home.absolute() / "timing")
            network = {"codes": [assign.code], **{key: getattr(assign, key) for key in CALIBRATED}}
            (timed,) = calibrate(network, time.process_time)
            writer.writerow([task, code, f"{timed['seconds_per_epoch']:.4f}"])
            sink.flush()
            print(f"\r{number}/{len(todo)}", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
