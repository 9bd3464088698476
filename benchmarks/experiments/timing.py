"""Measure the core seconds per epoch of every network in the tables of the arms, from which the compute is calculated.

    python benchmarks/experiments/timing.py

The processor time of each network is measured once, so other work of the machine during a search does not affect it.
The networks are measured in a random order, so that a slow period of the machine affects all arms alike. An interrupted
run continues where it stopped.
"""

from __future__ import annotations

import csv
import random
import time

from arm_specs import LARGE, SMALL, is_small
from search_runner import common_options
from standalone_trainings import new_assignment, parse_arm_spec

from eatnas_training.calibrate import calibrate

CALIBRATION_FIELDS = ("macro", "task", "data", "training")


def main() -> None:
    options = common_options(__doc__).parse_args()
    file = options.out / "timing.csv"
    specs = {task: parse_arm_spec(spec, options.data_root) for task, spec in (("small", SMALL), ("large", LARGE))}
    lines = file.read_text().splitlines() if file.exists() else []
    measured = {(row["task"], row["code"]) for row in csv.DictReader(lines)}
    networks = {
        ("small" if is_small(row["search"]) else "large", row["code"])
        for table in options.out.glob("*-[0-9].csv")
        for row in csv.DictReader(table.read_text().splitlines())
        if row["kind"] != "reevaluation"
    }
    remaining = sorted(networks - measured)
    random.Random(0).shuffle(remaining)
    with file.open("a", newline="") as target:
        writer = csv.writer(target)
        if not lines:
            writer.writerow(["task", "code", "seconds_per_epoch"])
        for number, (task, code) in enumerate(remaining, 1):
            assign = new_assignment(specs[task], 0, code, 0, options.home.absolute() / "timing")
            request = {"codes": [assign.code], **{key: getattr(assign, key) for key in CALIBRATION_FIELDS}}
            (timing,) = calibrate(request, time.process_time)
            writer.writerow([task, code, f"{timing['seconds_per_epoch']:.4f}"])
            target.flush()
            print(f"\r{number}/{len(remaining)}", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
