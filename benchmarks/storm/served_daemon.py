"""Run the daemon under attack: supervise one search, and print the state of the slots whenever it changes.

python -m storm.served_daemon HOME LANES PROGRAM...    # in the folder of the benchmarks
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from eatnas_daemon.daemon_lock import hold_record
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.lanes import LaneLauncher
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db.database.engine import open_record
from eatnas_db.settings import load_settings
from storm.states import DaemonState, SlotState, Token

SLOTS = 2
DATABASE_BUSY_SECONDS = 1.0
TIMEOUTS = Timeouts(lease=3.0, silence=3.0, stop=10.0, suspension=2.5)


def serve(home: str, lanes: int, program: list[str]) -> None:
    """Supervise the search until it ends. The file `clock` moves the wall clock by the seconds that it contains."""
    settings = load_settings({}, home)
    clock = settings.home / "clock"
    last = DaemonState()

    def wall() -> float:
        return time.time() + float(clock.read_text())

    def report(supervisor: Supervisor) -> None:
        nonlocal last
        state = DaemonState(problem=supervisor.trouble, slots=tuple(slot_state(slot) for slot in supervisor.slots))
        if state != last:
            last = state
            print(replace(state, at=time.monotonic()).to_json(), flush=True)

    with hold_record(settings):
        supervisor = Supervisor(
            open_record(settings.database_url, busy_seconds=DATABASE_BUSY_SECONDS),
            settings,
            Launcher(settings.logs, program) if lanes == 1 else lane_launcher(settings.logs, program, lanes),
            slots=max(SLOTS, lanes),
            host_name="storm",
            only="s",
            timeouts=TIMEOUTS,
            wall=wall,
        )
        supervisor.run(report)
    print(DaemonState(at=time.monotonic(), finished=supervisor.finished).to_json(), flush=True)


def lane_launcher(logs: Path, program: list[str], lanes: int) -> LaneLauncher:
    return LaneLauncher(Launcher(logs, program), lanes, on_processor=True)


def slot_state(slot: Slot) -> SlotState:
    training = slot.training
    token = None if training is None else training.token
    return SlotState(
        number=slot.number,
        pid=None if slot.worker is None else slot.worker.process.pid,
        token=None if token is None else Token(token.candidate, token.attempt),
        phase="" if training is None else training.phase,
    )


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
