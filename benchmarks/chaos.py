"""A search undisturbed, then again under a seeded storm of faults: is it the same search, to the bit?

A daemon of its own process supervises; this program kills, freezes, fills, garbles and moves what it can reach.
A fault counts when a lease lived at that moment and its effect was seen afterwards. Each fault and each round is
a JSON line of `--out`; started again with the same file, the storm goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
from sqlalchemy import Engine, select, text

from eatnas_daemon import lock
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.slots import Timeouts
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import reading, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.events import event
from eatnas_db.schema.trainings import attempt, checkpoint, lease
from eatnas_db.searches.create import create_search
from eatnas_db.settings import Settings, load_settings
from eatnas_migrations import commands

T = TypeVar("T")
Json = dict[str, Any]

SLOTS = 2
BUSY_SECONDS = 1.0
FREEZE_SECONDS = 4.0
"""Longer than all patience of the storm; what is not named here waits as long as everywhere."""
PATIENCE = Timeouts(lease=3.0, silence=3.0, obedience=10.0, suspended=2.5)
DEADLINE = 60.0
ORPHAN_SECONDS = 20.0
IN_TRAINING = frozenset({"training", "validating", "saving", "disk full"})
SIMULATED = (
    str(Path(__file__).parents[1] / "tests" / "support" / "simulated_worker.py"),
    "--scramble",
    "--seconds-per-epoch",
)
TORCH = ("-m", "eatnas_training.worker")
TREE = {
    "name": "s",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "evolution": {"population": 6, "tournament": 3, "lag": 5},
    "budget": {"candidates": 30},
    "yardstick": {"top": 0},
}
PAPER = {"training": {"epochs": 4}}
REAL = {
    "training": {"epochs": 8, "batch_size": 32, "augment": "none", "checkpoint_seconds": 1.0},
    "objective": {"max_mult_adds": 2_500_000},
    "budget": {"candidates": 12},
}


# The daemon: a process of its own.


def serve(home: str, program: list[str]) -> None:
    """Supervise the search until it ends; tell on stdout how the slots stand whenever that changes."""
    settings = load_settings({}, home)
    clock = settings.home / "clock"
    told: list[Any] = [None]

    def wall() -> float:
        return time.time() + float(clock.read_text())

    def look(now: Supervisor) -> None:
        slots = [_slot(slot) for slot in now.slots]
        if (state := [now.trouble, slots]) != told[0]:
            told[0] = state
            print(json.dumps({"at": time.monotonic(), "trouble": now.trouble, "slots": slots}), flush=True)

    with lock.hold(settings.lock_file):
        engine = open_record(settings.database_url, busy_seconds=BUSY_SECONDS)
        launcher = Launcher(settings.logs, program)
        supervisor = Supervisor(
            *(engine, settings, launcher), slots=SLOTS, host_name="storm", only="s", patience=PATIENCE, wall=wall
        )
        supervisor.run(look)
    print(json.dumps({"at": time.monotonic(), "trouble": None, "slots": [], "finished": supervisor.finished}))


def _slot(slot: Any) -> Json:
    token = slot.work and slot.work.leased.token
    return {
        "pid": slot.process and slot.process.pid,
        "ready": slot.hello is not None,
        "token": token and [token.candidate, token.attempt],
        "phase": slot.phase,
    }


class Daemon:
    """The daemon's process, and how it says that its slots stand."""

    def __init__(self, home: Path, program: tuple[str, ...]) -> None:
        command = [sys.executable, __file__, "serve", str(home), *program]
        with (home / "daemon.err").open("ab") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        self.look: Json = {"at": 0.0, "trouble": None, "slots": []}
        self.workers: dict[int, psutil.Process] = {}
        self.since: dict[tuple[int, int], float] = {}
        self.ended = False
        self._news = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            look = json.loads(line)
            with self._news:
                self.look = look
                for slot in look["slots"]:
                    if slot["pid"] and slot["pid"] not in self.workers:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            self.workers[slot["pid"]] = psutil.Process(slot["pid"])
                    if slot["token"] and slot["phase"] in IN_TRAINING:
                        self.since.setdefault(tuple(slot["token"]), look["at"])
                self._news.notify_all()
        with self._news:
            self.ended = True
            self._news.notify_all()

    def until(self, found: Callable[[Json], T | None], seconds: float = DEADLINE) -> T | None:
        """What `found` finds in a look, as soon as it does; None when the daemon ends before."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not (result := found(self.look)):
                if self.ended:
                    return None
                if not self._news.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"not seen within {seconds:g} s; the last look was {self.look}")
            return result


def training(look: Json) -> list[Json]:
    return [slot for slot in look["slots"] if slot["pid"] and slot["token"] and slot["phase"] in IN_TRAINING]


# The storm.


@dataclass
class Storm:
    """One search in a home of its own, its daemon, and the faults that it goes through."""

    settings: Settings
    program: tuple[str, ...]
    chance: random.Random
    engine: Engine = field(init=False)
    daemon: Daemon = field(init=False)
    workers: dict[int, psutil.Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = open_record(self.settings.database_url)
        self.move_clock(0.0)
        self.start()

    def start(self) -> None:
        self.daemon = Daemon(self.settings.home, self.program)

    def move_clock(self, seconds: float) -> None:
        file = self.settings.home / "clock"
        file.with_suffix(".new").write_text(str(seconds))
        file.with_suffix(".new").replace(file)

    def rows(self, query: Any) -> list[Any]:
        with reading(self.engine) as connection:
            return list(connection.execute(query))

    def aim(self, wanted: Callable[[Json], bool] = lambda _: True) -> Json | None:
        """A slot that trains under a living lease, at a moment of chance; None when the search has ended."""
        while True:
            targets = self.daemon.until(lambda look: [slot for slot in training(look) if wanted(slot)])
            if targets is None:
                return None
            time.sleep(self.chance.uniform(0, 0.4))
            slot = self.chance.choice(targets)
            if slot["token"] in self.leases() and slot in self.daemon.look["slots"]:
                return slot

    def leases(self) -> list[list[int]]:
        return [list(row) for row in self.rows(select(lease.c.candidate_id, lease.c.attempt))]

    def end_of(self, token: list[int]) -> str:
        """How an attempt ended, once it has."""
        query = select(attempt.c.outcome).where(attempt.c.candidate_id == token[0], attempt.c.number == token[1])
        return eventually(lambda: self.rows(query)[0].outcome)

    def trains_again(self, since: float, number: int | None = None, gone: int | None = None) -> float | None:
        """Seconds from a fault until this slot, or any, trains; by another worker than the one that is gone."""

        def found(look: Json) -> float | None:
            slots = look["slots"] if number is None else look["slots"][number : number + 1]
            again = [slot for slot in training({"slots": slots}) if slot["pid"] != gone]
            if look["at"] <= since or not again:
                return None
            began = [self.daemon.since[tuple(slot["token"])] for slot in again]
            return min([at for at in began if at > since], default=look["at"]) - since

        return self.daemon.until(found)

    def wasted(self, token: list[int], began: float | None, at: float) -> float | None:
        """Seconds of training before a fault that the next attempt repeats; None if that did not begin in time."""
        query = (
            select(event.c.kind, event.c.attempt, event.c.detail)
            .where(event.c.candidate_id == token[0], event.c.attempt > token[1])
            .where(event.c.kind.in_(("resumed", "started_afresh", "scored", "taken_back", "released")))
            .order_by(event.c.id)
        )
        again = self.daemon.until(lambda look: [s for s in training(look) if s["token"][0] == token[0]])
        if began is None or again is None:
            return None
        found = eventually(lambda: self.rows(query), 2.0) if self._files(token[0]) else []
        if not found or found[0].kind != "resumed":
            return at - began
        place = json.loads(found[0].detail)
        saved = [
            path.stat().st_mtime
            for path in self._files(token[0])
            if path.name.endswith(f"-e{place['epoch']}-b{place['batch']}.ckpt")
        ]
        # Seconds since 1970 there, this machine's own here.
        return max(0.0, at - max(began, max(saved) - time.time() + time.monotonic())) if saved else None

    def _files(self, candidate_id: int) -> list[Path]:
        return sorted(self.settings.artifacts.glob(f"checkpoints/*/c{candidate_id}-a*.ckpt"), key=lambda p: _age(p))

    def kill_daemon(self) -> float:
        self.daemon.process.kill()
        at = time.monotonic()
        self.daemon.process.wait()
        return at

    def restarted(self, at: float, hit: list[list[int]], began: dict[tuple[int, int], float]) -> Json:
        """A daemon was killed: start the next, and see what became of its leases."""
        predecessor = self.daemon
        self.start()
        eventually(lambda: not living(predecessor.workers), ORPHAN_SECONDS)
        orphans = time.monotonic() - at
        self.workers |= predecessor.workers
        recovery = self.trains_again(at)
        wasted = [self.wasted(token, began.get(tuple(token)), at) for token in hit]  # type: ignore[call-overload]
        ends = [self.end_of(token) for token in hit]
        return {
            "token": hit,
            "seen": f"killed; attempts {', '.join(ends)}",
            "hit": bool(hit) and set(ends) == {"lost"},
            "recovery": recovery,
            "wasted": max((w for w in wasted if w is not None), default=None),
            "orphans": orphans,
        }

    # The kinds of fault: each gives what was seen, or None when the search ended before it could strike.

    def worker_killed(self) -> Json | None:
        return self._killed()

    def torn_file(self) -> Json | None:
        def tear(file: Path) -> None:
            os.truncate(file, self.chance.randrange(file.stat().st_size))

        return self._killed(tear)

    def garbled_file(self) -> Json | None:
        def garble(file: Path) -> None:
            content = bytearray(file.read_bytes())
            for _ in range(3):
                content[self.chance.randrange(len(content))] ^= self.chance.randrange(1, 256)
            file.write_bytes(content)

        return self._killed(garble)

    def _killed(self, damage: Callable[[Path], None] | None = None) -> Json | None:
        """A worker stopped, its newest checkpoint damaged, and the worker killed."""
        slot = self.aim(lambda s: damage is None or bool(self._files(s["token"][0])))
        if slot is None:
            return None
        number = self.daemon.look["slots"].index(slot)
        files = []
        if damage is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(slot["pid"], signal.SIGSTOP)
            files = self._files(slot["token"][0])
            if files:
                damage(files[-1])
        with contextlib.suppress(ProcessLookupError):
            os.kill(slot["pid"], signal.SIGKILL)
        at = time.monotonic()
        outcome = self.end_of(slot["token"])
        hit, seen = outcome == "lost", f"killed; attempt {outcome}"
        recovery = self.trains_again(at, number, slot["pid"])
        wasted = self.wasted(slot["token"], self.daemon.since.get(tuple(slot["token"])), at)  # type: ignore[call-overload]
        if damage is not None and hit:
            told = select(event.c.detail).where(event.c.kind == "checkpoint_damaged")
            hit = bool(files) and bool(
                eventually(lambda: [row for row in self.rows(told) if files[-1].name in row.detail], 20.0)
            )
            seen += f"; {files[-1].name} told as damaged" if hit else "; no file damaged"
        return {"token": slot["token"], "seen": seen, "hit": hit, "recovery": recovery, "wasted": wasted}

    def supervisor_killed(self) -> Json | None:
        if self.aim() is None:
            return None
        hit, began = self.leases(), dict(self.daemon.since)
        return self.restarted(self.kill_daemon(), hit, began)

    def all_killed(self) -> Json | None:
        if self.aim() is None:
            return None
        hit, began = self.leases(), dict(self.daemon.since)
        self.daemon.process.kill()
        for worker in living(self.daemon.workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        at = time.monotonic()
        self.daemon.process.wait()
        return self.restarted(at, hit, began)

    def drained(self) -> Json | None:
        if self.aim() is None:
            return None
        hit = self.leases()
        self.daemon.process.terminate()
        at = time.monotonic()
        self.daemon.process.wait(DEADLINE)
        took = time.monotonic() - at
        left = self.leases()
        eventually(lambda: not living(self.daemon.workers), ORPHAN_SECONDS)
        orphans = time.monotonic() - at - took
        ends = [self.end_of(token) for token in hit]
        self.workers |= self.daemon.workers
        self.start()
        recovery = self.trains_again(at)
        return {
            "token": hit,
            "seen": f"left with {len(left)} leases after {took:.1f} s; attempts {', '.join(ends)}",
            "hit": not left and "released" in ends and set(ends) <= {"released", "scored"},
            "recovery": recovery,
            "drained": took,
            "orphans": orphans,
        }

    def worker_frozen(self) -> Json | None:
        slot = self.aim()
        if slot is None:
            return None
        number = self.daemon.look["slots"].index(slot)
        with contextlib.suppress(ProcessLookupError):
            os.kill(slot["pid"], signal.SIGSTOP)
        at = time.monotonic()
        frozen = is_stopped(slot["pid"])
        outcome = self.end_of(slot["token"])
        with contextlib.suppress(ProcessLookupError):
            os.kill(slot["pid"], signal.SIGCONT)
        taken = time.monotonic() - at
        recovery = self.trains_again(at, number, slot["pid"])
        seen = f"frozen; attempt {outcome} after {taken:.1f} s"
        return {"token": slot["token"], "seen": seen, "hit": frozen and outcome == "lost", "recovery": recovery}

    def supervisor_frozen(self) -> Json | None:
        return self._frozen(list)

    def all_frozen(self) -> Json | None:
        return self._frozen(lambda: living(self.daemon.workers))

    def _frozen(self, besides: Callable[[], list[psutil.Process]]) -> Json | None:
        if self.aim() is None:
            return None
        hit = self.leases()
        processes = [psutil.Process(self.daemon.process.pid), *besides()]
        for process in processes:
            process.suspend()
        frozen = is_stopped(self.daemon.process.pid)
        held = self.leases()
        time.sleep(FREEZE_SECONDS)
        still = self.leases() == held
        self.chance.shuffle(processes)
        at = time.monotonic()
        for process in processes:
            process.resume()
        recovery = self.trains_again(at)
        seen = f"{len(processes)} processes frozen for {FREEZE_SECONDS:g} s; leases {held} stood still: {still}"
        return {"token": hit, "seen": seen, "hit": frozen and still and bool(held), "recovery": recovery}

    def checkpoints_full(self) -> Json | None:
        slot = self.aim()
        if slot is None:
            return None
        limit(slot["pid"], 16)
        return self._full([slot["token"]], lambda: limit(slot["pid"], None))

    def record_full(self) -> Json | None:
        slot = self.aim()
        if slot is None:
            return None
        limit(self.daemon.process.pid, 0)

        def room() -> None:
            limit(self.daemon.process.pid, None)
            for worker in living(self.daemon.workers):  # those born meanwhile have inherited the limit
                limit(worker.pid, None)

        return self._full([slot["token"]], room)

    def disk_full(self) -> Json | None:
        """The whole home's disk, really full: record, checkpoints and logs."""
        slot = self.aim()
        if slot is None:
            return None
        filler = self.settings.home / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 12)):
                pass
        return self._full([slot["token"]], filler.unlink)

    def _full(self, token: list[list[int]], room: Callable[[], None]) -> Json | None:
        living_then = token[0] in self.leases()
        try:
            told = self.daemon.until(lambda look: look["trouble"], 15.0)
            time.sleep(self.chance.uniform(0.2, 2.0))
        except TimeoutError:
            told = None
        finally:
            room()
        at = time.monotonic()
        if told is None and not self.daemon.ended:
            return {"token": token, "seen": "nothing was told", "hit": False, "recovery": None}
        recovery = self.daemon.until(
            lambda look: look["at"] - at if look["trouble"] is None and training(look) and look["at"] > at else None
        )
        return {"token": token, "seen": told, "hit": living_then and told is not None, "recovery": recovery}

    def record_held(self) -> Json | None:
        slot = self.aim()
        if slot is None:
            return None
        other = sqlite3.connect(str(self.settings.database_file), isolation_level=None, timeout=10)
        other.execute("BEGIN IMMEDIATE")

        def let_go() -> None:
            other.execute("ROLLBACK")
            other.close()

        return self._full([slot["token"]], let_go)

    def clock_moved(self) -> Json | None:
        slot = self.aim()
        if slot is None:
            return None
        moved = self.chance.choice((-3600.0, 3600.0)) * self.chance.uniform(0.5, 2)
        (before,) = self.rows(text("SELECT coalesce(max(id), 0) FROM eatnas_event"))[0]
        self.move_clock(moved)
        try:
            query = select(event.c.at).where(event.c.id > before)
            seen = eventually(
                lambda: [row.at for row in self.rows(query) if abs(row.at - time.time() - moved) < 60], 30.0
            )
        finally:
            self.move_clock(0.0)
        told = f"moved by {moved:.0f} s; {len(seen or ())} events written at that time"
        return {"token": slot["token"], "seen": told, "hit": bool(seen), "recovery": None}


KINDS: dict[str, Callable[[Storm], Json | None]] = {
    kind.__name__: kind
    for kind in (
        *(Storm.worker_killed, Storm.supervisor_killed, Storm.all_killed, Storm.drained),
        *(Storm.worker_frozen, Storm.supervisor_frozen, Storm.all_frozen),
        *(Storm.torn_file, Storm.garbled_file),
        *(Storm.checkpoints_full, Storm.record_full, Storm.disk_full),
        *(Storm.record_held, Storm.clock_moved),
    )
}


def eventually(found: Callable[[], T], seconds: float = DEADLINE) -> T:
    """What `found` finds; its last word when it found nothing in time."""
    deadline = time.monotonic() + seconds
    while not (result := found()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return result


def living(workers: dict[int, psutil.Process]) -> list[psutil.Process]:
    found = []
    for worker in list(workers.values()):
        with contextlib.suppress(psutil.NoSuchProcess):
            if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
                found.append(worker)
    return found


def is_stopped(pid: int) -> bool:
    def stopped() -> bool:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)

    with contextlib.suppress(psutil.NoSuchProcess):
        return eventually(stopped, 2.0)
    return False


def limit(pid: int, size: int | None) -> None:
    """No file that a process writes grows beyond this size."""
    soft = resource.RLIM_INFINITY if size is None else size
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


def _age(path: Path) -> tuple[int, int, int]:
    _, number, epoch, batch = path.stem.split("-")
    return int(epoch[1:]), int(batch[1:]), int(number[1:])


# A round: one seed, calm and in the storm.


def new_home(folder: Path, seed: int, real: bool) -> Settings:
    folder.mkdir(parents=True)
    settings = load_settings({}, str(folder))
    engine = create_engine_for(settings.database_url)
    commands.upgrade(engine)
    tree = {**TREE, **(REAL if real else PAPER)}
    with transaction(engine) as connection:
        spec = parse_spec(tree, {"seed": seed})
        data = "digits" if real else "arithmetic"
        create_search(connection, spec, task=Task(8, 1, 10), data_digest=data, slots=SLOTS, now=time.time())
    return settings


def fingerprint(engine: Engine) -> str:
    with reading(engine) as connection:
        return get_fingerprint(connection, get_search(connection, "s").id).sha256


@functools.cache
def calm(folder: Path, seed: int, real: bool) -> str:
    """The fingerprint of a search to which nothing happens."""
    settings = new_home(folder / f"calm-{seed}{'-real' if real else ''}", seed, real)
    engine = open_record(settings.database_url)
    launcher = Launcher(settings.logs, TORCH if real else (*SIMULATED, "0"))
    Supervisor(engine, settings, launcher, slots=SLOTS, host_name="calm", only="s").run()
    return fingerprint(engine)


INVARIANTS = {
    "lost": {
        "births without a score": "SELECT count(*) FROM eatnas_candidate WHERE state <> 'scored'",
        "births missing": "SELECT budget_candidates - (SELECT count(*) FROM eatnas_candidate) FROM eatnas_search",
        "gaps in births": "SELECT max(birth) + 1 - count(DISTINCT birth) FROM eatnas_candidate",
        "gaps in steps": "SELECT (SELECT settled FROM eatnas_search) - count(*) FROM eatnas_step",
        "gaps in attempts": "SELECT count(*) FROM (SELECT max(number) - count(*) AS gap FROM eatnas_attempt "
        "GROUP BY candidate_id) WHERE gap <> 0",
        "parents that are not there": "SELECT count(*) FROM eatnas_candidate c LEFT JOIN eatnas_candidate p "
        "ON p.id = c.parent_id WHERE c.parent_id IS NOT NULL AND (p.id IS NULL OR p.birth >= c.birth)",
        "epochs missing": "SELECT count(*) FROM (SELECT count(e.number) AS done FROM eatnas_candidate c LEFT JOIN "
        "eatnas_epoch e ON e.candidate_id = c.id GROUP BY c.id) WHERE done <> "
        "(SELECT json_extract(spec, '$.training.epochs') FROM eatnas_search)",
    },
    "doubled": {
        "candidates scored twice": "SELECT count(*) FROM (SELECT count(*) AS n FROM eatnas_attempt "
        "WHERE outcome = 'scored' GROUP BY candidate_id) WHERE n <> 1",
        "scores told twice": "SELECT count(*) FROM (SELECT count(*) AS n FROM eatnas_event "
        "WHERE kind = 'scored' GROUP BY candidate_id) WHERE n <> 1",
        "attempts that still live": "SELECT count(*) FROM eatnas_attempt WHERE ended_at IS NULL",
        "leases left": "SELECT count(*) FROM eatnas_lease",
        "networks twice": "SELECT count(*) - count(DISTINCT architecture_id) FROM eatnas_candidate",
    },
    "differing": {
        "epochs that came out otherwise": "SELECT count(*) FROM eatnas_event WHERE kind = 'replay_differs'",
    },
}


def judge(storm: Storm, expected: str) -> Json:
    """What a storm has left of a search: how much is lost, doubled and different, and all that is wrong."""
    problems: list[str] = []
    verdict: Json = {}
    with reading(storm.engine) as connection:
        for word, queries in INVARIANTS.items():
            found = {what: int(connection.execute(text(sql)).scalar_one()) for what, sql in queries.items()}
            verdict[word] = sum(abs(count) for count in found.values())
            problems += [f"{count} {what}" for what, count in found.items() if count]
        intact = connection.execute(text("PRAGMA integrity_check")).scalars().all()
        strangers = connection.execute(text("PRAGMA foreign_key_check")).all()
        rows = connection.execute(select(checkpoint.c.path, checkpoint.c.digest)).all()
    for row in rows:
        file = storm.settings.artifacts / row.path
        if not file.exists() or hashlib.sha256(file.read_bytes()[:-32]).hexdigest() != row.digest:
            problems.append(f"{row.path} is not what its row says")
    if intact != ["ok"] or strangers:
        problems.append(f"the record is damaged: {intact} {strangers}")
    ours = fingerprint(storm.engine)
    if ours != expected:
        verdict["differing"] += 1
        problems.append(f"the fingerprint is {ours}, undisturbed {expected}")
    orphans = len(living(storm.workers | storm.daemon.workers))
    if orphans:
        problems.append(f"{orphans} workers are left")
    return {**verdict, "fingerprint": ours, "orphans": orphans, "problems": problems}


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path | None]:
    """A disk of its own that can be filled, where this machine lets us mount one."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "eatnas-storm", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def play(home: Path, seed: int, real: bool, pace: str, queue: list[str], note: Callable[[Json], None]) -> Json:
    """One search through the faults of a queue, as many as it lasts."""
    settings = new_home(home, seed, real)
    expected = calm(home.parents[1], seed, real)
    program = TORCH if real else (*SIMULATED, pace)
    storm = Storm(settings, program, random.Random(seed))
    try:
        while queue and not storm.daemon.ended:
            seen = KINDS[kind := queue.pop()](storm)
            if seen is not None:
                note({"kind": kind, **seen})
        storm.daemon.until(lambda look: look.get("finished"), 600.0)
        if not storm.daemon.look.get("finished"):
            words = (settings.home / "daemon.err").read_text(errors="replace")
            return {"lost": 1, "doubled": 0, "differing": 0, "problems": [f"the daemon ended: {words[-2000:]}"]}
        storm.daemon.process.wait(DEADLINE)
        eventually(lambda: not living(storm.workers | storm.daemon.workers), ORPHAN_SECONDS)
        return judge(storm, expected)
    finally:
        storm.daemon.process.kill()
        storm.daemon.process.wait()
        for worker in living(storm.workers | storm.daemon.workers):
            worker.kill()
        storm.engine.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=15, help="faults of each kind on the arithmetic worker")
    parser.add_argument("--real", type=int, default=50, metavar="N", help="faults on real trainings")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pace", default="0.4", help="seconds of an epoch of the arithmetic worker")
    parser.add_argument("--out", type=Path, help="JSON lines; an existing file is gone on with")
    asked = parser.parse_args()
    lines: list[Json] = []
    if asked.out and asked.out.exists():
        lines = [json.loads(line) for line in asked.out.read_text().splitlines()]
    with tempfile.TemporaryDirectory(prefix="eatnas-chaos-") as name:
        for real in (False, True):
            storm_of(Path(name), real, asked, lines)
    sys.exit(report(lines))


def storm_of(folder: Path, real: bool, asked: argparse.Namespace, lines: list[Json]) -> None:
    """Rounds until every kind has had its faults; only whole rounds count."""
    number = 1 + max((line["round"] for line in lines if line["real"] == real and "lost" in line), default=0)
    idle = 0
    while (wanted := _wanted(asked, real, lines)) and idle < 5:
        # Real rounds repeat one search, for calm it takes minutes.
        seed = asked.seed if real else asked.seed + number
        with small_disk(folder / f"disk-{real}-{number}", 512 if real else 64) as disk:
            here = disk if disk is not None and number % 2 else folder / f"plain-{real}-{number}"
            queue = [kind for kind in wanted if kind != "disk_full" or here == disk]
            if disk is None:
                queue = [kind for kind in queue if kind != "disk_full"]
                if not queue:
                    print("no small disk can be mounted here: disk_full is left out", flush=True)
                    return
            if not queue:
                number += 1
                continue
            random.Random(asked.seed * 1000 + number).shuffle(queue)
            found: list[Json] = []

            def note(line: Json, found: list[Json] = found, number: int = number) -> None:
                found.append({"round": number, "real": real, **line})
                print(json.dumps(found[-1]), flush=True)

            verdict = play(here / "home", seed, real, asked.pace, queue, note)
            note({"seed": seed, "faults": sum(line["hit"] for line in found), **verdict})
            shutil.rmtree(here, ignore_errors=True)
        lines += found
        idle = 0 if found[-1]["faults"] else idle + 1
        if asked.out:
            with asked.out.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in found)
        number += 1


def _wanted(asked: argparse.Namespace, real: bool, lines: list[Json]) -> list[str]:
    """The faults that are still to come."""
    had = Counter(line["kind"] for line in lines if line["real"] == real and line.get("hit"))
    if not real:
        return [kind for kind in asked.kinds for _ in range(asked.each - had[kind])]
    share = {kind: asked.real // len(asked.kinds) for kind in asked.kinds}
    for kind in asked.kinds[: asked.real % len(asked.kinds)]:
        share[kind] += 1
    return [kind for kind in asked.kinds for _ in range(share[kind] - had[kind])]


def report(lines: list[Json]) -> int:
    """The table, and the exit status: 0 when nothing is lost, doubled or different."""
    print(f"\n{'':24}{'faults':>7}{'hit':>5}   recovery (s): median, most   repeated (s): median, most")
    for real in (False, True):
        for kind in KINDS:
            told = [line for line in lines if line.get("kind") == kind and line["real"] == real]
            if told:
                hit = [line for line in told if line["hit"]]
                name = f"{kind}{' (torch)' if real else ''}"
                print(f"{name:24}{len(told):7}{len(hit):5}   {_spread(hit, 'recovery'):26}  {_spread(hit, 'wasted')}")
    orphans = [line["orphans"] for line in lines if "kind" in line and line.get("orphans") is not None]
    rounds = [line for line in lines if "lost" in line]
    sums = {word: sum(line[word] for line in rounds) for word in INVARIANTS}
    if orphans:
        print(f"the longest that a worker outlived its daemon: {max(orphans):.1f} s")
    hits = sum(bool(line.get("hit")) for line in lines)
    print(f"{hits} faults in {len(rounds)} searches: " + ", ".join(f"{count} {word}" for word, count in sums.items()))
    problems = [f"round {line['round']}: {problem}" for line in rounds for problem in line["problems"]]
    print("\n".join(problems))
    return 1 if problems or not rounds else 0


def _spread(lines: list[Json], name: str) -> str:
    values = [line[name] for line in lines if line.get(name) is not None]
    return f"{statistics.median(values):.1f}, {max(values):.1f}" if values else "-"


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], sys.argv[3:])
    else:
        main()
