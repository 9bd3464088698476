"""Check that searches under seeded storms of faults are bit-identical to the same searches without faults.

For each search, a daemon runs in a new process. This program kills and freezes the daemon's processes, fills its disks,
damages its files and moves its clock. `--out FILE` receives a JSON line for every fault and every round. If the file
exists, the storm continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from storm.faults import FAULTS
from storm.results import ResultsFile
from storm.rounds import StormPlan, run_storm
from storm.searches import StormSearch
from storm.workloads import PLUGINS, PROGRAM, SIMULATED, TORCH, install_examples


def shares(total: int, faults: list[str]) -> dict[str, int]:
    """Divide a number of faults evenly among the kinds."""
    each, rest = divmod(total, len(faults))
    return {fault: each + (number < rest) for number, fault in enumerate(faults)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--each", type=int, default=15, help="faults of each kind in searches with the simulated worker; default: 15"
    )
    parser.add_argument(
        "--real", type=int, default=50, metavar="N", help="faults in searches with real trainings; default: 50"
    )
    parser.add_argument(
        "--plugins",
        type=int,
        default=0,
        metavar="N",
        help="faults in searches with the example packages: half of them hit searches with the operator, the space and "
        "the data set of the examples, the other half searches with the training of the examples; default: 0",
    )
    parser.add_argument(
        "--faults", nargs="+", choices=FAULTS, default=list(FAULTS), help="kinds of fault; default: all"
    )
    parser.add_argument(
        "--rungs",
        choices=("whole", "rung"),
        help="attack searches with rungs; the value is their evolution.fidelity.schedule",
    )
    parser.add_argument(
        "--lanes", type=int, default=1, help="trainings that a worker process runs at the same time; default: 1"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--seconds-per-epoch", default="0.4", help="seconds that the simulated worker takes for an epoch; default: 0.4"
    )
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to or create")
    options = parser.parse_args()
    results = ResultsFile(options.out)
    plugins = options.plugins // 2
    real = {TORCH: options.real, PLUGINS: plugins, PROGRAM: options.plugins - plugins}
    with tempfile.TemporaryDirectory(prefix="eatnas-chaos-") as folder:
        if options.plugins:
            install_examples(Path(folder))
        for workload in (SIMULATED, *real):
            faults = [fault for fault in options.faults if fault not in workload.without]
            wanted = dict.fromkeys(faults, options.each) if workload is SIMULATED else shares(real[workload], faults)
            search = StormSearch(workload, options.rungs, options.lanes)
            plan = StormPlan(wanted, search, seed=options.seed, seconds_per_epoch=options.seconds_per_epoch)
            run_storm(Path(folder), plan, results)
    sys.exit(results.print_table())


if __name__ == "__main__":
    main()
