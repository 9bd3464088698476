"""Run a host of the search: one supervisor with simulated workers.

python -m scaling.served_host URL HOME NAME SLOTS SECONDS_PER_EPOCH [--until-first-lease]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db.database.engine import open_record
from eatnas_db.settings import Settings

BENCHMARKS = Path(__file__).parents[1]
SIMULATED_WORKER = (str(BENCHMARKS.parent / "tests" / "support" / "simulated_worker.py"),)
TIMEOUTS = Timeouts(tick=0.05, database=0.2, lease=3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("home", type=Path)
    parser.add_argument("name")
    parser.add_argument("slots", type=int)
    parser.add_argument("seconds_per_epoch")
    parser.add_argument("--until-first-lease", action="store_true")
    options = parser.parse_args()
    settings = Settings(options.home, options.url, options.name)
    program = (*SIMULATED_WORKER, "--seconds-per-epoch", options.seconds_per_epoch, "--scramble")

    def stop_at_first_lease(supervisor: Supervisor) -> None:
        if options.until_first_lease and any(slot.training for slot in supervisor.slots):
            sys.exit()

    Supervisor(
        open_record(options.url, busy_seconds=10),
        settings,
        Launcher(settings.logs / options.name, program),
        slots=options.slots,
        host_name=options.name,
        only="b",
        timeouts=TIMEOUTS,
    ).run(stop_at_first_lease)


if __name__ == "__main__":
    main()
