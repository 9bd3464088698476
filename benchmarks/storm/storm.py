"""A search in a new home, and the daemon that the faults strike."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Row, Select, select

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, run_transaction
from eatnas_db.domain.states import DesiredState
from eatnas_db.schema.events import event
from eatnas_db.schema.trainings import attempt, lease
from eatnas_db.searches.control import set_desired_state
from eatnas_db.settings import Settings
from storm.daemon_process import DaemonProcess
from storm.processes import eventually, running
from storm.states import DaemonState, SlotState, Token

MAX_AIM_SECONDS = 0.4
"""A fault strikes at a random time, up to this many seconds after a training is seen."""


class Storm:
    """The search, its daemon, and the measurements after a fault."""

    def __init__(
        self, settings: Settings, program: tuple[str, ...], random_source: random.Random, lanes: int = 1
    ) -> None:
        self.settings, self.program, self.random, self.lanes = settings, program, random_source, lanes
        self.engine = open_record(settings.database_url)
        self._former_daemons: list[DaemonProcess] = []
        self.set_clock_offset(0.0)
        self.daemon = DaemonProcess(settings.home, program, lanes)

    def restart_daemon(self) -> None:
        """Start the next daemon after the current one has ended."""
        self._former_daemons.append(self.daemon)
        self.daemon = DaemonProcess(self.settings.home, self.program, self.lanes)

    def workers_left(self) -> list[psutil.Process]:
        """Return the workers, started by any of the daemons, that are still running."""
        daemons = [*self._former_daemons, self.daemon]
        return [worker for daemon in daemons for worker in running(daemon.workers.values())]

    def close(self) -> None:
        """Kill all processes of the search."""
        self.daemon.process.kill()
        self.daemon.process.wait()
        for worker in self.workers_left():
            worker.kill()
        self.engine.dispose()

    def set_clock_offset(self, seconds: float) -> None:
        """Set the offset of the daemon's wall clock from the real time."""
        file = self.settings.home / "clock"
        file.with_suffix(".new").write_text(str(seconds))
        file.with_suffix(".new").replace(file)

    def set_desired_state(self, desired: DesiredState) -> None:
        """Pause or resume the search."""
        run_transaction(self.engine, lambda connection: set_desired_state(connection, "s", desired, time.time()))

    def rows(self, query: Any) -> list[Row[Any]]:
        with read_transaction(self.engine) as connection:
            return list(connection.execute(query))

    def pick_training(self, is_wanted: Callable[[SlotState], bool] = lambda _: True) -> SlotState | None:
        """Wait for a random moment and return a slot that trains under a lease. Return None if the search has ended."""
        while True:
            slots = self.daemon.wait_for(lambda state: [slot for slot in state.trainings() if is_wanted(slot)])
            if slots is None:
                return None
            time.sleep(self.random.uniform(0, MAX_AIM_SECONDS))
            slot = self.random.choice(slots)
            if slot.token in self.leases() and slot in self.daemon.state.slots:
                return slot

    def leases(self) -> list[Token]:
        rows = self.rows(select(lease.c.candidate_id, lease.c.attempt))
        return [Token(row.candidate_id, row.attempt) for row in rows]

    def outcome(self, token: Token) -> str:
        """Wait for the end of an attempt and return its outcome."""
        query = select(attempt.c.outcome).where(
            attempt.c.candidate_id == token.candidate, attempt.c.number == token.attempt
        )
        return str(eventually(lambda: self.rows(query)[0].outcome))

    def checkpoint_files(self, token: Token) -> list[Path]:
        """Return the checkpoints of a candidate, the oldest first."""
        pattern = f"checkpoints/*/c{token.candidate}-a*.ckpt"
        return sorted(self.settings.artifacts.glob(pattern), key=_progress)

    def recovery_seconds(self, since: float, *, slot: int | None = None, not_pid: int | None = None) -> float | None:
        """Wait until a slot trains again. Return the seconds since the fault, or None if the search has ended.

        If `slot` is given, wait for this slot only. Ignore the worker `not_pid`, which the fault struck.
        """

        def find(state: DaemonState) -> float | None:
            slots = [training for training in state.trainings() if training.pid != not_pid]
            tokens = [training.token for training in slots if slot is None or training.number == slot]
            if state.at <= since or not tokens:
                return None
            starts = [self.daemon.training_since[token] for token in tokens if token is not None]
            return min([start for start in starts if start > since], default=state.at) - since

        return self.daemon.wait_for(find)

    def repeated_seconds(self, token: Token, started_at: float | None, struck_at: float) -> float | None:
        """Return how many seconds of training the next attempt repeats after a fault, or None if this is unknown.

        These are the seconds from the last checkpoint or, without a checkpoint, from the start of the attempt to the
        fault.
        """
        next_slots = self.daemon.wait_for(
            lambda state: [slot for slot in state.trainings() if slot.token and slot.token.candidate == token.candidate]
        )
        if started_at is None or next_slots is None:
            return None
        events = eventually(lambda: self.rows(_next_events(token)), 2.0) if self.checkpoint_files(token) else []
        if not events or events[0].kind != "resumed":
            return struck_at - started_at
        resumed = json.loads(events[0].detail)
        ending = f"-e{resumed['epoch']}-b{resumed['batch']}.ckpt"
        saved = [file.stat().st_mtime for file in self.checkpoint_files(token) if file.name.endswith(ending)]
        if not saved:
            return None
        # Convert the Unix times of files to monotonic time, as all other times are monotonic.
        saved_at = max(saved) - time.time() + time.monotonic()
        return max(0.0, struck_at - max(started_at, saved_at))


def _next_events(token: Token) -> Select[Any]:
    """Select the events after an attempt that tell where the next attempt of the candidate starts."""
    kinds = ("resumed", "started_afresh", "scored", "taken_back", "released")
    return (
        select(event.c.kind, event.c.attempt, event.c.detail)
        .where(event.c.candidate_id == token.candidate, event.c.attempt > token.attempt, event.c.kind.in_(kinds))
        .order_by(event.c.id)
    )


def _progress(file: Path) -> tuple[int, int, int]:
    """Return the epoch, batch and attempt in the name of a checkpoint."""
    _, number, epoch, batch = file.stem.split("-")
    return int(epoch[1:]), int(batch[1:]), int(number[1:])
