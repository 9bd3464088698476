"""The kinds of faults. Each function strikes once and returns its observation, or None if the search had ended.

A fault is a hit if a lease was held when it struck and its effect was observed afterwards.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import select, text

from eatnas_db.domain.states import DesiredState
from eatnas_db.errors import ConflictError
from eatnas_db.schema.events import event
from storm.processes import TIMEOUT_SECONDS, eventually, is_stopped, limit_file_size, running, send_signal
from storm.states import DaemonState, Token
from storm.storm import Storm

FREEZE_SECONDS = 4.0
"""The seconds of a freeze, more than the timeouts for leases, silence and suspension of the daemon under attack."""
ORPHAN_SECONDS = 20.0
"""The seconds for which workers may outlive their daemon."""


@dataclass(frozen=True)
class Observation:
    """The observed effect of a fault."""

    tokens: tuple[Token, ...]
    """The attempts that held a lease when the fault struck."""
    seen: str
    hit: bool
    recovery_seconds: float | None = None
    repeated_seconds: float | None = None
    drain_seconds: float | None = None
    orphan_seconds: float | None = None
    """The seconds for which workers outlived their daemon."""


Fault = Callable[[Storm], Observation | None]


def worker_killed(storm: Storm) -> Observation | None:
    return _kill_worker(storm)


def torn_file(storm: Storm) -> Observation | None:
    def tear(file: Path) -> None:
        os.truncate(file, storm.random.randrange(file.stat().st_size))

    return _kill_worker(storm, damage=tear)


def garbled_file(storm: Storm) -> Observation | None:
    def garble(file: Path) -> None:
        content = bytearray(file.read_bytes())
        for _ in range(3):
            content[storm.random.randrange(len(content))] ^= storm.random.randrange(1, 256)
        file.write_bytes(content)

    return _kill_worker(storm, damage=garble)


def _kill_worker(storm: Storm, damage: Callable[[Path], None] | None = None) -> Observation | None:
    """Kill a worker. With `damage`, first stop the worker and damage the newest checkpoint of its candidate."""
    slot = storm.pick_training(lambda s: damage is None or s.token is None or bool(storm.checkpoint_files(s.token)))
    if slot is None or slot.pid is None or slot.token is None:
        return None
    files: list[Path] = []
    intact = b""
    if damage is not None:
        send_signal(slot.pid, signal.SIGSTOP)
        files = storm.checkpoint_files(slot.token)
        if files:
            intact = files[-1].read_bytes()
            damage(files[-1])
    send_signal(slot.pid, signal.SIGKILL)
    at = time.monotonic()
    outcome = storm.outcome(slot.token)
    hit, seen = outcome == "lost", f"killed; attempt {outcome}"
    if intact and not hit and files[-1].exists():  # no attempt resumes from the file, so nothing detects the damage
        files[-1].write_bytes(intact)
    recovery = storm.recovery_seconds(at, slot=slot.number, not_pid=slot.pid)
    since = storm.daemon.training_since.get(slot.token)
    repeated = storm.repeated_seconds(slot.token, since, at) if hit else None
    if damage is not None and hit:
        hit = bool(files) and _is_reported_damaged(storm, files[-1])
        seen += f"; {files[-1].name} reported as damaged" if hit else "; no file reported as damaged"
    return Observation((slot.token,), seen, hit, recovery_seconds=recovery, repeated_seconds=repeated)


def _is_reported_damaged(storm: Storm, file: Path) -> bool:
    query = select(event.c.detail).where(event.c.kind == "checkpoint_damaged")
    return bool(eventually(lambda: [row for row in storm.rows(query) if file.name in row.detail], 20.0))


def supervisor_killed(storm: Storm) -> Observation | None:
    return _kill_daemon(storm, with_workers=False)


def all_killed(storm: Storm) -> Observation | None:
    return _kill_daemon(storm, with_workers=True)


def _kill_daemon(storm: Storm, *, with_workers: bool) -> Observation | None:
    if storm.pick_training() is None:
        return None
    tokens, started = storm.leases(), dict(storm.daemon.training_since)
    workers = storm.daemon.workers.values()
    storm.daemon.process.kill()
    if with_workers:
        for worker in running(workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
    at = time.monotonic()
    storm.daemon.process.wait()
    storm.restart_daemon()
    eventually(lambda: not running(workers), ORPHAN_SECONDS)
    orphans = time.monotonic() - at
    recovery = storm.recovery_seconds(at)
    outcomes = [storm.outcome(token) for token in tokens]
    lost = [token for token, outcome in zip(tokens, outcomes, strict=True) if outcome == "lost"]
    repeated = [storm.repeated_seconds(token, started.get(token), at) for token in lost]
    return Observation(
        tuple(tokens),
        f"killed; attempts {', '.join(outcomes)}",
        bool(tokens) and set(outcomes) == {"lost"},
        recovery_seconds=recovery,
        repeated_seconds=max((seconds for seconds in repeated if seconds is not None), default=None),
        orphan_seconds=orphans,
    )


def drained(storm: Storm) -> Observation | None:
    if storm.pick_training() is None:
        return None
    tokens = storm.leases()
    storm.daemon.process.terminate()
    at = time.monotonic()
    storm.daemon.process.wait(TIMEOUT_SECONDS)
    drain = time.monotonic() - at
    left = storm.leases()
    eventually(lambda: not running(storm.daemon.workers.values()), ORPHAN_SECONDS)
    orphans = time.monotonic() - at - drain
    outcomes = [storm.outcome(token) for token in tokens]
    storm.restart_daemon()
    recovery = storm.recovery_seconds(at)
    return Observation(
        tuple(tokens),
        f"exited with {len(left)} leases after {drain:.1f} s; attempts {', '.join(outcomes)}",
        not left and "released" in outcomes and set(outcomes) <= {"released", "scored"},
        recovery_seconds=recovery,
        drain_seconds=drain,
        orphan_seconds=orphans,
    )


def paused(storm: Storm) -> Observation | None:
    """Pause the only search of the daemon, so that the daemon exits. Then resume the search and restart the daemon."""
    if storm.pick_training() is None:
        return None
    tokens = storm.leases()
    try:
        storm.set_desired_state(DesiredState.PAUSED)
    except ConflictError:  # the search has finished
        return None
    at = time.monotonic()
    storm.daemon.process.wait(TIMEOUT_SECONDS)
    drain = time.monotonic() - at
    left = storm.leases()
    outcomes = [storm.outcome(token) for token in tokens]
    storm.set_desired_state(DesiredState.RUN)
    storm.restart_daemon()
    recovery = storm.recovery_seconds(at)
    return Observation(
        tuple(tokens),
        f"paused with {len(left)} leases after {drain:.1f} s; attempts {', '.join(outcomes)}",
        not left and "released" in outcomes,
        recovery_seconds=recovery,
        drain_seconds=drain,
    )


def worker_frozen(storm: Storm) -> Observation | None:
    slot = storm.pick_training()
    if slot is None or slot.pid is None or slot.token is None:
        return None
    send_signal(slot.pid, signal.SIGSTOP)
    at = time.monotonic()
    frozen = is_stopped(slot.pid)
    outcome = storm.outcome(slot.token)
    send_signal(slot.pid, signal.SIGCONT)
    seen = f"frozen; attempt {outcome} after {time.monotonic() - at:.1f} s"
    recovery = storm.recovery_seconds(at, slot=slot.number, not_pid=slot.pid)
    return Observation((slot.token,), seen, frozen and outcome == "lost", recovery_seconds=recovery)


def supervisor_frozen(storm: Storm) -> Observation | None:
    return _freeze(storm, with_workers=False)


def all_frozen(storm: Storm) -> Observation | None:
    return _freeze(storm, with_workers=True)


def _freeze(storm: Storm, *, with_workers: bool) -> Observation | None:
    if storm.pick_training() is None:
        return None
    tokens = storm.leases()
    pid = storm.daemon.process.pid
    processes = [psutil.Process(pid), *(running(storm.daemon.workers.values()) if with_workers else ())]
    for process in processes:
        process.suspend()
    frozen = is_stopped(pid)
    held = storm.leases()
    time.sleep(FREEZE_SECONDS)
    unchanged = storm.leases() == held
    storm.random.shuffle(processes)
    at = time.monotonic()
    for process in processes:
        process.resume()
    recovery = storm.recovery_seconds(at)
    seen = f"{len(processes)} processes frozen for {FREEZE_SECONDS:g} s; {len(held)} leases unchanged: {unchanged}"
    return Observation(tuple(tokens), seen, frozen and unchanged and bool(held), recovery_seconds=recovery)


def checkpoints_full(storm: Storm) -> Observation | None:
    """Let the writes of a worker fail."""
    slot = storm.pick_training()
    if slot is None or slot.pid is None or slot.token is None:
        return None
    pid = slot.pid
    limit_file_size(pid, 16)
    return _block(storm, slot.token, lambda: limit_file_size(pid, None))


def record_full(storm: Storm) -> Observation | None:
    """Let the writes of the daemon fail."""
    slot = storm.pick_training()
    if slot is None or slot.token is None:
        return None
    limit_file_size(storm.daemon.process.pid, 0)

    def free() -> None:
        limit_file_size(storm.daemon.process.pid, None)
        for worker in running(storm.daemon.workers.values()):  # new workers have inherited the limit
            limit_file_size(worker.pid, None)

    return _block(storm, slot.token, free)


def disk_full(storm: Storm) -> Observation | None:
    """Fill the disk of the home: the database, the checkpoints and the logs cannot be written."""
    slot = storm.pick_training()
    if slot is None or slot.token is None:
        return None
    filler = storm.settings.home / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 12)):
            pass
    return _block(storm, slot.token, filler.unlink)


def record_held(storm: Storm) -> Observation | None:
    """Hold the write lock of the database."""
    slot = storm.pick_training()
    if slot is None or slot.token is None:
        return None
    other = sqlite3.connect(str(storm.settings.database_file), isolation_level=None, timeout=10)
    other.execute("BEGIN IMMEDIATE")

    def free() -> None:
        other.execute("ROLLBACK")
        other.close()

    return _block(storm, slot.token, free)


def _block(storm: Storm, token: Token, free: Callable[[], object]) -> Observation | None:
    """Wait until the daemon reports the problem, remove the obstacle, and wait until the daemon trains again."""
    was_leased = token in storm.leases()
    try:
        problem = storm.daemon.wait_for(lambda state: state.problem, 15.0)
        time.sleep(storm.random.uniform(0.2, 2.0))
    except TimeoutError:
        problem = None
    finally:
        free()
    at = time.monotonic()
    if problem is None and not storm.daemon.ended:
        return Observation((token,), "the daemon reported no problem", False)

    def seconds_to_recovery(state: DaemonState) -> float | None:
        return state.at - at if state.problem is None and state.trainings() and state.at > at else None

    recovery = storm.daemon.wait_for(seconds_to_recovery)
    return Observation((token,), problem or "", was_leased and problem is not None, recovery_seconds=recovery)


def clock_moved(storm: Storm) -> Observation | None:
    """Move the wall clock of the daemon by up to two hours, forward or back."""
    slot = storm.pick_training()
    if slot is None or slot.token is None:
        return None
    offset = storm.random.choice((-3600.0, 3600.0)) * storm.random.uniform(0.5, 2)
    (before,) = storm.rows(text("SELECT coalesce(max(id), 0) FROM eatnas_event"))[0]
    storm.set_clock_offset(offset)
    query = select(event.c.at).where(event.c.id > before)
    try:
        moved = eventually(
            lambda: [row.at for row in storm.rows(query) if abs(row.at - time.time() - offset) < 60], 30.0
        )
    finally:
        storm.set_clock_offset(0.0)
    return Observation(
        (slot.token,), f"moved by {offset:.0f} s; {len(moved or ())} events written at that time", bool(moved)
    )


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        *(worker_killed, supervisor_killed, all_killed, drained, paused),
        *(worker_frozen, supervisor_frozen, all_frozen),
        *(torn_file, garbled_file),
        *(checkpoints_full, record_full, disk_full),
        *(record_held, clock_moved),
    )
}
