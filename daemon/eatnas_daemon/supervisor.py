"""The supervisor: a loop over `tick`. It alone writes to the record on its host; workers only report."""

from __future__ import annotations

import hashlib
import json
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, insert, select, update

from eatnas_daemon.launchers import Launcher, WorkerProcess
from eatnas_db import steps, transitions
from eatnas_db.database import ChangeWatch, insert_new, transaction
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.chance import derived_seed
from eatnas_db.domain.messages import (
    Assign,
    Beat,
    Cancel,
    Checkpointed,
    EpochDone,
    Exit,
    Failed,
    Finished,
    Hello,
    Message,
    Progress,
    Release,
    Released,
)
from eatnas_db.domain.objective import fitness
from eatnas_db.domain.states import FailureKind, Wish
from eatnas_db.errors import RecordError, StaleLeaseError
from eatnas_db.queries.searches import get_search
from eatnas_db.schema import device, host, search, worker
from eatnas_db.settings import Settings
from eatnas_db.transitions import Leased, Provenance

LEASE_SECONDS: Final = 30.0
FLUSH_SECONDS: Final = 2.0
REST_SECONDS: Final = 0.5
RESPAWN_SECONDS: Final = 2.0


@dataclass(slots=True)
class Slot:
    """A place for one worker, and what the worker has in hand."""

    number: int
    process: WorkerProcess | None = None
    hello: Hello | None = None
    worker_id: int | None = None
    lease: Leased | None = None
    progress: Progress | None = None
    told_to_stop: bool = False
    launch_after: float = 0.0
    reports: list[Message] = field(default_factory=list)
    ended: bool = False
    status: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """What a transaction has decided, to be carried out once it is committed."""

    assigned: list[tuple[Slot, Leased, Assign]]
    garbage: list[str]
    stale: list[Slot]
    ended: bool


class Supervisor:
    """Keeps every slot training, and the record true, until told to stop or until `only` is finished."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        launcher: Launcher,
        *,
        slots: int,
        host_name: str,
        only: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._settings, self._launcher = engine, settings, launcher
        self._only, self._monotonic, self._wall = only, monotonic, wall
        self.slots = [Slot(number) for number in range(slots)]
        self._selector = selectors.DefaultSelector()
        self._watch = ChangeWatch(engine)
        self._draining = False
        self._beat_at = self._flush_at = 0.0
        self.finished = False
        self.trouble: str | None = None
        with transaction(engine) as connection:
            self._host_id, self._device_id = _register(connection, host_name, wall())
            transitions.take_back_all(connection, self._host_id, wall())

    def run(self, on_tick: Callable[[Supervisor], None] = lambda _: None) -> None:
        """Tick until the work is done or drained. The first SIGTERM or SIGINT drains, the second kills."""
        try:
            with _signals(self.stop):
                while not self._over():
                    self.tick()
                    on_tick(self)
                    self._rest()
        finally:
            self._end_workers()

    def stop(self) -> None:
        """Drain: workers checkpoint and leave. Called again: they are killed."""
        for slot in self.slots:
            if slot.process is not None:
                slot.process.kill() if self._draining else slot.process.send(Exit())
        self._draining = True

    def tick(self) -> None:
        """One round: collect reports, settle and breed, lease, assign. All that is written is one commit."""
        self._collect()
        self._launch()
        now = self._monotonic()
        changed = self._watch.changed()
        due = now >= self._flush_at
        urgent = any(slot.ended or _urgent(slot.reports) for slot in self.slots)
        if not (urgent or changed or due):
            return
        if due:
            self._flush_at = now + FLUSH_SECONDS
        try:
            with transaction(self._engine) as connection:
                written = self._write(connection, now)
        except RecordError as error:
            # Reports stay where they are and are written when the record can be reached again.
            self.trouble = str(error)
            for slot in self.slots:
                if any(isinstance(report, Hello) for report in slot.reports):
                    slot.worker_id = None
            self._flush_at = now + FLUSH_SECONDS
            return
        self.trouble = None
        self._committed(written)

    def _collect(self) -> None:
        for slot in self.slots:
            if slot.process is None or slot.ended:
                continue
            messages, ended = slot.process.receive()
            for message in messages:
                if isinstance(message, Hello):
                    slot.hello = message
                elif isinstance(message, Progress):
                    slot.progress = message
                slot.reports.append(message)
            if ended:
                self._selector.unregister(slot.process.up)
                slot.status = slot.process.close()
                slot.ended = True

    def _launch(self) -> None:
        now = self._monotonic()
        for slot in self.slots:
            if slot.process is None and not self._draining and now >= slot.launch_after:
                slot.process = self._launcher.launch(slot.number)
                self._selector.register(slot.process.up, selectors.EVENT_READ)
                slot.process.send(Beat(LEASE_SECONDS))

    def _write(self, connection: Connection, now: float) -> Written:
        wall = self._wall()
        garbage: list[str] = []
        stale: list[Slot] = []
        for slot in self.slots:
            try:
                garbage += self._write_reports(connection, slot, wall)
            except StaleLeaseError:
                stale.append(slot)
            if slot.ended:
                self._write_ending(connection, slot, wall)
        if now >= self._beat_at:
            transitions.beat(connection, self._host_id)
        return Written(self._advance(connection, wall), garbage, stale, self._only_ended(connection))

    def _write_reports(self, connection: Connection, slot: Slot, wall: float) -> list[str]:
        garbage: list[str] = []
        if slot.hello is not None and slot.worker_id is None:
            slot.worker_id = connection.execute(
                insert(worker)
                .values(device_id=self._device_id, slot=slot.number, pid=slot.hello.pid, started_at=wall)
                .returning(worker.c.id)
            ).scalar_one()
        if slot.lease is None:
            return garbage
        token = slot.lease.token
        epochs = [report for report in slot.reports if isinstance(report, EpochDone)]
        if epochs:
            transitions.record_epochs(connection, token, epochs, wall)
        for report in slot.reports:
            match report:
                case Checkpointed():
                    garbage += transitions.record_checkpoint(connection, token, report, wall)
                case Finished():
                    self._write_score(connection, slot, report, wall)
                case Released():
                    transitions.release(connection, token, report.device_seconds, wall)
                case Failed():
                    transitions.record_failure(
                        connection,
                        token,
                        FailureKind(report.kind),
                        report.message,
                        traceback=report.traceback,
                        device_seconds=report.device_seconds,
                        now=wall,
                    )
        return garbage

    def _write_score(self, connection: Connection, slot: Slot, report: Finished, wall: float) -> None:
        assert slot.lease is not None
        assert slot.hello is not None
        row = steps.get_row(connection, slot.lease.search_id)
        objective = row.spec["objective"]
        recipe = {key: value for key, value in row.spec["training"].items() if key != "checkpoint_seconds"}
        transitions.record_score(
            connection,
            slot.lease.token,
            fitness=fitness(
                report.val_accuracy, slot.lease.mult_adds, objective["target_mult_adds"], objective["exponent"]
            ),
            metrics={"val_accuracy": report.val_accuracy, "val_loss": report.val_loss},
            seed=derived_seed(row.seed, "training"),
            circumstances=_provenance(recipe, report.data_digest, slot.hello),
            device_seconds=report.device_seconds,
            now=wall,
        )

    def _write_ending(self, connection: Connection, slot: Slot, wall: float) -> None:
        """A worker's pipe has ended: close its row, and its candidate's attempt where it left one open."""
        if slot.worker_id is not None:
            connection.execute(
                update(worker)
                .where(worker.c.id == slot.worker_id)
                .values(ended_at=wall, ending=f"status {slot.status}")
            )
        if slot.lease is not None and not _final(slot.reports):
            kind, message = _cause(slot.status)
            seconds = 0.0 if slot.progress is None else slot.progress.device_seconds
            with suppress(StaleLeaseError):
                transitions.record_failure(
                    connection, slot.lease.token, kind, message, device_seconds=seconds, now=wall
                )

    def _advance(self, connection: Connection, wall: float) -> list[tuple[Slot, Leased, Assign]]:
        idle = [
            slot
            for slot in self.slots
            if slot.worker_id is not None and not slot.ended and (slot.lease is None or _final(slot.reports))
        ]
        assigned: list[tuple[Slot, Leased, Assign]] = []
        for row in self._open_searches(connection):
            if row.wish != Wish.RUN:
                self._tell_to_stop(row)
                continue
            steps.settle(connection, row.id, wall)
            steps.breed(connection, row.id, wall)
            if steps.finish(connection, row.id, wall):
                continue
            while idle and not self._draining and not steps.over_budget(row):
                assert idle[0].worker_id is not None
                leased = transitions.lease_next(
                    connection, row.id, host_id=self._host_id, worker_id=idle[0].worker_id, now=wall
                )
                if leased is None:
                    break
                assigned.append((idle.pop(0), leased, self._assignment(row, leased)))
        return assigned

    def _open_searches(self, connection: Connection) -> list[Any]:
        query = select(search).order_by(search.c.priority.desc(), search.c.id)
        if self._only is not None:
            query = query.where(search.c.name == self._only)
        # A cancelled search is finished, but its workers have yet to be told.
        held = [slot.lease.search_id for slot in self.slots if slot.lease is not None]
        return list(connection.execute(query.where(search.c.finished_at.is_(None) | search.c.id.in_(held))))

    def _tell_to_stop(self, row: Any) -> None:
        for slot in self.slots:
            if slot.lease is None or slot.lease.search_id != row.id or slot.told_to_stop or slot.process is None:
                continue
            token = slot.lease.token
            kind = Cancel if row.wish == Wish.CANCELLED else Release
            slot.process.send(kind(token.candidate, token.attempt))
            slot.told_to_stop = True

    def _assignment(self, row: Any, leased: Leased) -> Assign:
        data = dict(row.spec["data"])
        data["root"] = data["root"] or str(self._settings.data)
        folder = self._settings.artifacts / "checkpoints" / str(row.id)
        return Assign(
            candidate=leased.token.candidate,
            attempt=leased.token.attempt,
            code=Architecture.parse(leased.code).to_code(),
            macro=row.macro,
            task=row.task,
            data=data,
            training=row.spec["training"],
            seed=derived_seed(row.seed, "training"),
            checkpoint_folder=str(folder),
            log_file=str(self._settings.logs / f"candidate-{leased.token.candidate}.log"),
            resume=leased.resume,
        )

    def _committed(self, written: Written) -> None:
        now = self._monotonic()
        for slot in self.slots:
            if slot.lease is not None and (_final(slot.reports) or slot.ended):
                slot.lease, slot.progress = None, None
            slot.reports.clear()
            if slot.ended:
                slot.process, slot.hello, slot.worker_id, slot.ended = None, None, None, False
                slot.launch_after = now + RESPAWN_SECONDS if not self._draining else now
        for slot in written.stale:
            if slot.lease is not None and slot.process is not None:
                slot.process.send(Cancel(slot.lease.token.candidate, slot.lease.token.attempt))
        for slot, leased, assign in written.assigned:
            slot.lease, slot.told_to_stop = leased, False
            if slot.process is not None:
                slot.process.send(assign)
        if now >= self._beat_at:
            self._beat_at = now + LEASE_SECONDS / 3
            for slot in self.slots:
                if slot.process is not None:
                    slot.process.send(Beat(LEASE_SECONDS))
        for path in written.garbage:
            Path(path).unlink(missing_ok=True)
        self.finished = written.ended and all(slot.lease is None for slot in self.slots)

    def _only_ended(self, connection: Connection) -> bool:
        if self._only is None:
            return False
        row = get_search(connection, self._only)
        return row.finished_at is not None or row.wish != Wish.RUN

    def _over(self) -> bool:
        if self._draining:
            return all(slot.process is None for slot in self.slots)
        return self.finished

    def _rest(self) -> None:
        self._selector.select(REST_SECONDS)

    def _end_workers(self) -> None:
        for slot in self.slots:
            if slot.process is not None:
                slot.process.kill()
                if not slot.ended:
                    slot.process.close()
        self._selector.close()
        self._watch.close()


def _urgent(reports: list[Message]) -> bool:
    return any(isinstance(report, Hello | Finished | Released | Failed | Checkpointed) for report in reports)


def _final(reports: list[Message]) -> bool:
    return any(isinstance(report, Finished | Released | Failed) for report in reports)


def _cause(status: int) -> tuple[FailureKind, str]:
    if status < 0:
        name = signal.Signals(-status).name
        lost = -status in (signal.SIGKILL, signal.SIGTERM)
        return (FailureKind.LOST if lost else FailureKind.SIGNAL), f"the worker was ended by {name}"
    return FailureKind.LOST, f"the worker left with status {status}"


def _provenance(recipe: dict[str, Any], data_digest: str, hello: Hello) -> Provenance:
    facts = {
        "recipe": recipe,
        "data_digest": data_digest,
        "versions": hello.versions,
        "device": hello.device,
        "cpu_capability": hello.cpu_capability,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Provenance(digest, **facts)  # type: ignore[arg-type]


def _register(connection: Connection, name: str, wall: float) -> tuple[int, int]:
    connection.execute(insert_new(host).values(name=name, seen_at=wall))
    host_id = connection.execute(
        update(host).where(host.c.name == name).values(seen_at=wall).returning(host.c.id)
    ).scalar_one()
    uuid = f"cpu:{name}"
    connection.execute(insert_new(device).values(host_id=host_id, uuid=uuid, kind="cpu", name="processor"))
    device_id = connection.execute(select(device.c.id).where(device.c.uuid == uuid)).scalar_one()
    return int(host_id), int(device_id)


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
