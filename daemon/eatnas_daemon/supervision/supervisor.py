"""The supervisor: a loop over `tick`. It alone writes to the record on its host; workers only report."""

from __future__ import annotations

import hashlib
import json
import math
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Select, select

from eatnas_daemon.devices.availability import Cause
from eatnas_daemon.devices.model import CPU, CPU_DEVICE
from eatnas_daemon.devices.sharing import DeviceStatus, describe_unavailable
from eatnas_daemon.gpus.scheduler import PAUSED, GpuScheduler, is_thrifty
from eatnas_daemon.workers.assignments import Assignment, work_for
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.workers.slots import FULL_DISK, TIMEOUTS, Slot, Timeouts
from eatnas_db import disk_cleanup, hosts, leases, training_record, transitions
from eatnas_db.checkpoint_files import checkpoint_folder, list_partial_files
from eatnas_db.database.changes import watch_changes
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.locks import list_connected_hosts, lock_searches
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.memory_estimate import max_variable_bytes, measured_share_of_estimate
from eatnas_db.domain.objective import TEST_ACCURACY, VALIDATION_ACCURACY, fitness
from eatnas_db.domain.recipe import without_timing
from eatnas_db.domain.states import DesiredState, FailureKind, MemoryFallback, SearchKind
from eatnas_db.errors import RecordError, StaleLeaseError, TransactionRollbackError
from eatnas_db.leases import ANY_CANDIDATE, LeaseFilter, LeaseToken
from eatnas_db.provenance import Provenance
from eatnas_db.queries.disk_usage import list_orphaned_checkpoints
from eatnas_db.queries.hosts import HOST_LOST
from eatnas_db.queries.searches import SearchRecord, fetch_searches
from eatnas_db.schema.hosts import host
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import lease
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.control import set_waiting_reason
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retention import drop_unneeded_checkpoints
from eatnas_db.settings import Settings
from eatnas_db.training_record import CheckpointRecord, EpochRecord, ResourceUse, ResumptionRecord
from eatnas_protocol.messages import (
    AncestorRetrained,
    Cancel,
    Checkpointed,
    EpochDone,
    Exit,
    Failed,
    Finished,
    Heartbeat,
    Ready,
    Release,
    Released,
    Resumed,
)


@dataclass(frozen=True, slots=True)
class CommitActions:
    """What a transaction has decided, to be carried out once it is committed."""

    assigned: list[tuple[Slot, Assignment]]
    garbage: list[str]
    stale: list[Slot]
    ended: bool


class Supervisor:
    """Keeps every slot training, and the record true, until told to stop or until `only` is finished.

    The engine should give up soon on a record that somebody else holds: meanwhile nobody hears the workers.
    `slots`: those on the processor; those on GPUs are opened and closed as `floor` finds them free.
    `max_bytes`: what the home may take on the disk.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        launcher: Launcher,
        *,
        slots: int,
        host_name: str,
        only: str | None = None,
        patience: Timeouts = TIMEOUTS,
        max_bytes: int | None = None,
        floor: GpuScheduler | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._settings, self._launcher = engine, settings, launcher
        self._only, self._patience, self._monotonic, self._wall = only, patience, monotonic, wall
        self.slots = [Slot(number) for number in range(slots)]
        self.floor = floor
        self._paused: frozenset[str] = frozenset()
        self._arrange_at = -math.inf
        self._causes: dict[str, Cause] = {}
        self._causes_said: tuple[tuple[Any, ...], str] | None = None
        self._max_bytes, self._room_at = max_bytes, 0.0
        self._selector = selectors.DefaultSelector()
        self._watch = watch_changes(engine)
        self._listening: int | None = None
        self._changed = False
        self._silent: dict[LeaseToken, tuple[int, float]] = {}
        self._looked_at = monotonic()
        self._draining = self._killing = False
        self._ticked_at = monotonic()
        self._beat_at = self._count_at = self._flush_at = self._retry_at = self._collect_at = 0.0
        self._said: str | None = None
        self.finished = False
        self.trouble: str | None = None
        self._processor = hosts.cpu_uuid(host_name)
        self._host_id = self._enter(host_name, with_processor=slots > 0)
        for path in list_orphaned_checkpoints(engine, settings.artifacts, wall()):
            path.unlink(missing_ok=True)

    def _enter(self, host_name: str, *, with_processor: bool) -> int:
        """Be this host in the record, and take back what a supervisor before this one has left; the host's id."""
        with transaction(self._engine) as connection:
            host_id = hosts.register_host(connection, host_name, self._wall())
            if with_processor:
                hosts.register_device(connection, host_id, self._processor, CPU, CPU_DEVICE.name)
            self._paused = hosts.list_paused_devices(connection, host_id)
        self._watch.lock_host(host_id, host_name)
        with transaction(self._engine) as connection:
            transitions.reclaim_leases(connection, host_id, self._wall())
            hosts.record_lost_workers(connection, host_id, "the daemon was restarted", self._wall())
            if list_connected_hosts(connection) <= {host_id}:
                # What a daemon waited for that is no more.
                set_waiting_reason(connection, None)
        return host_id

    def run(self, on_tick: Callable[[Supervisor], None] = lambda _: None) -> None:
        """Tick until the work is done or drained. The first SIGTERM or SIGINT drains, the second kills."""
        try:
            with _signals(self.stop):
                while not self._over():
                    self.tick()
                    on_tick(self)
                    self._selector.select(self._patience.rest)
        finally:
            self._end_workers()
            with suppress(RecordError), transaction(self._engine) as connection:
                hosts.record_lost_workers(connection, self._host_id, "the daemon left", self._wall())

    def stop(self) -> None:
        """Drain: workers checkpoint and leave. Called again: they are killed. Safe in a signal handler."""
        self._killing = self._draining
        self._draining = True

    def tick(self) -> None:
        """One round: collect reports, settle and breed, lease, assign. All that is written is one commit."""
        now = self._monotonic()
        self._excuse_a_suspension(now)
        self._collect(now)
        self._judge(now)
        self._drain(now)
        self._arrange(now)
        self._launch(now)
        self._beat(now)
        self._listen()
        due = now >= self._flush_at
        urgent = any(slot.ended or slot.reports for slot in self.slots)
        if not (urgent or self._changed or due) or now < self._retry_at:
            return
        self._flush_at = now + self._patience.flush
        try:
            with transaction(self._engine) as connection:
                written = self._write(connection, now, self._changed)
        except RecordError as error:
            # Whether it was committed is not known where the answer was lost: to be compared.
            self._changed = True
            # Reports stay where they are and are written when the record can be reached again.
            for slot in self.slots:
                if any(isinstance(report, Ready) for report in slot.reports):
                    slot.worker_id = None
            self._said = str(error)
            if not isinstance(error, TransactionRollbackError):
                self.trouble = self._said
                self._retry_at = self._flush_at = self._monotonic() + self._patience.flush
            return
        self._changed = False
        self.trouble = self._said
        self._committed(written, now)
        self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Keep the home within its bound. Seldom: it looks at every file, and nobody hears the workers meanwhile."""
        if self._max_bytes is not None and now >= self._room_at:
            self._room_at = now + self._patience.room
            with suppress(RecordError):
                disk_cleanup.free_disk_space(self._engine, self._settings, self._max_bytes, self._wall())

    def _listen(self) -> None:
        """Take notice of what others have written, and be woken by it where that can be."""
        self._changed = self._watch.changed() or self._changed
        fileno = self._watch.fileno
        if fileno != self._listening:
            if self._listening is not None:
                self._selector.unregister(self._listening)
            if fileno is not None:
                self._selector.register(fileno, selectors.EVENT_READ)
            self._listening = fileno

    def _excuse_a_suspension(self, now: float) -> None:
        gap = now - self._ticked_at
        self._ticked_at = now
        if gap > self._patience.suspended:
            for slot in self.slots:
                slot.heard_at += gap
                slot.stop_by = None if slot.stop_by is None else slot.stop_by + gap

    def _collect(self, now: float) -> None:
        for slot in self.slots:
            if slot.process is None or slot.ended:
                continue
            messages, ended = slot.process.receive()
            for message in messages:
                if not slot.hear(message, now):
                    continue
                if isinstance(message, EpochDone):
                    load = None if self.floor is None else self.floor.load(slot.device.uuid)
                    slot.measure(message.epoch, now, load)
                if isinstance(message, Finished | Released | Failed):
                    slot.count(slot.process.memory_bytes, now, self._patience)
                if isinstance(message, Failed) and message.fatal:
                    slot.renew("it cannot go on after this failure", now, self._patience)
            if ended:
                self._selector.unregister(slot.process.up)
                slot.status = slot.process.close()
                slot.ended = True

    def _judge(self, now: float) -> None:
        for slot in self.slots:
            if slot.process is None or slot.ended or slot.kill_reason is not None or slot.final:
                continue
            slot.kill_reason = slot.verdict(now, self._patience)
            if slot.kill_reason is not None:
                if slot.process.suspended:
                    # Not the candidate's doing: it counts as a kill.
                    slot.kill_reason = FailureKind.LOST, f"the worker was suspended: {slot.kill_reason[1]}"
                slot.process.kill()

    def _drain(self, now: float) -> None:
        if not self._draining:
            return
        for slot in self.slots:
            if slot.process is None or slot.ended:
                continue
            if self._killing:
                slot.process.kill()
            elif not slot.leaving:
                slot.process.send(Exit())
                slot.leaving, slot.stop_by = True, now + self._patience.obedience

    def _arrange(self, now: float) -> None:
        """Go where devices are free, and leave those that are wanted by others. Seldom, and without waiting."""
        if self._draining or now < self._arrange_at:
            return
        self._arrange_at = now + self._patience.devices
        for slot in self.slots:
            if not slot.on_gpu:
                slot.may_start = self._processor not in self._paused
                if not slot.may_start:
                    slot.evict(PAUSED.reason, now, self._patience)
        if self.floor is not None:
            self.floor.arrange(self.slots, self._paused, self._patience)

    def _launch(self, now: float) -> None:
        for slot in self.slots:
            if slot.process is None and slot.may_start and not self._draining and now >= slot.launch_after:
                slot.may_start = not slot.on_gpu
                try:
                    slot.process = self._launcher.launch(slot.number, slot.device)
                except OSError as error:
                    slot.not_started(now, self._patience, str(error))
                    continue
                if self.floor is not None and slot.on_gpu:
                    self.floor.started(slot.process.pid)
                slot.heard_at = now
                self._selector.register(slot.process.up, selectors.EVENT_READ)
                slot.process.send(Heartbeat(self._patience.lease))

    def _beat(self, now: float) -> None:
        """Tell the workers that somebody listens; it does not hang on the record."""
        if now < self._beat_at:
            return
        self._beat_at = now + self._patience.lease / 3
        for slot in self.slots:
            if slot.process is not None:
                slot.process.send(Heartbeat(self._patience.lease))

    def _write(self, connection: Connection, now: float, changed: bool) -> CommitActions:
        wall = self._wall()
        garbage: list[str] = []
        counting = now >= self._count_at
        if counting:
            leases.record_heartbeat(connection, self._host_id, self._rates())
            hosts.touch_host(connection, self._host_id, wall)
        if changed or counting:
            paused = hosts.list_paused_devices(connection, self._host_id)
            if paused != self._paused:
                self._paused, self._arrange_at = paused, -math.inf
        self._write_standings(connection, wall, at_once=counting)
        lock_searches(connection, self._open().with_only_columns(search.c.id).order_by(None))
        stale = self._fenced_off(connection, wall) if changed or counting else []
        if counting:
            self._take_back_from_the_dead(connection, now, wall)
        for slot in self.slots:
            try:
                garbage += self._write_reports(connection, slot, wall)
            except StaleLeaseError:
                stale.append(slot)
            if slot.ended:
                self._write_ending(connection, slot, wall)
        said = self._in_words()
        if said != self._said:
            set_waiting_reason(connection, said)
            self._said = said
        assigned, ended = self._advance(connection, now, wall, garbage)
        return CommitActions(assigned, garbage, stale, ended)

    def _fenced_off(self, connection: Connection, wall: float) -> list[Slot]:
        """Slots whose lease somebody else has ended: a candidate cancelled by hand, or a host that was thought dead."""
        held = select(lease.c.candidate_id, lease.c.attempt).where(lease.c.host_id == self._host_id)
        tokens = {LeaseToken(*row) for row in connection.execute(held)}
        working = {slot.work.leased.token for slot in self.slots if slot.work is not None}
        for token in tokens - working:
            # It was leased by a commit whose answer was lost.
            transitions.release(connection, token, 0.0, wall)
        return [slot for slot in self.slots if slot.work is not None and slot.work.leased.token not in tokens]

    def _take_back_from_the_dead(self, connection: Connection, now: float, wall: float) -> None:
        """End the leases of hosts whose counter stood still for a lease length, as seen from here.

        What passed between two looks counts as half a lease at most: this host may have been away itself.
        """
        seen_for = min(now - self._looked_at, self._patience.lease / 2)
        self._looked_at = now
        if not is_postgresql(connection):
            return
        held = select(lease.c.candidate_id, lease.c.attempt, lease.c.counter, lease.c.host_id, host.c.name).join(host)
        silent: dict[LeaseToken, tuple[int, float]] = {}
        dead: set[int] = set()
        for row in connection.execute(held.where(lease.c.host_id != self._host_id)).all():
            token = LeaseToken(row.candidate_id, row.attempt)
            counter, seconds = self._silent.get(token, (None, 0.0))
            seconds = seconds + seen_for if counter == row.counter else 0.0
            if seconds >= self._patience.lease:
                reason = f"host {row.name} gives no sign of life"
                if transitions.expire_lease(connection, token, counter=row.counter, reason=reason, now=wall):
                    dead.add(row.host_id)
            else:
                silent[token] = (row.counter, seconds)
        self._silent = silent
        for host_id in dead:
            hosts.record_lost_workers(connection, host_id, HOST_LOST, wall)
            # Not what the dead one waited for, but what this one does.
            set_waiting_reason(connection, self._said)

    def _write_reports(self, connection: Connection, slot: Slot, wall: float) -> list[str]:
        garbage: list[str] = []
        if slot.hello is not None and slot.worker_id is None:
            uuid = slot.device.uuid if slot.on_gpu else self._processor
            device_id = hosts.register_device(connection, self._host_id, uuid, slot.device.kind, slot.device.name)
            slot.worker_id = hosts.record_worker_start(connection, device_id, slot.number, slot.hello.pid, wall)
        if slot.work is None:
            return garbage
        token = slot.work.leased.token
        epochs = [report for report in slot.reports if isinstance(report, EpochDone)]
        if epochs:
            records = [_epoch_record(report, slot.uses.get(report.epoch)) for report in epochs]
            training_record.record_epochs(connection, token, records, wall)
        folder = checkpoint_folder(slot.work.leased.search_id)
        for report in slot.reports:
            match report:
                case Checkpointed():
                    record = _checkpoint_record(report, folder + report.path)
                    garbage += training_record.record_checkpoint(connection, token, record, wall)
                case Resumed():
                    resumption = _resumption_record(report, folder)
                    garbage += training_record.record_resumption(connection, token, resumption, wall)
                case AncestorRetrained():
                    training_record.record_restoration(connection, token, report.ancestor, wall)
                case Finished():
                    self._write_score(connection, slot, slot.work, report, wall)
                case Released():
                    transitions.release(connection, token, report.device_seconds, wall)
                case Failed():
                    kind = FailureKind.LOST if report.fatal and self._is_troubled(slot) else FailureKind(report.kind)
                    transitions.record_failure(
                        connection,
                        token,
                        kind,
                        report.message,
                        traceback=report.traceback,
                        device_seconds=report.device_seconds,
                        now=wall,
                    )
        return garbage

    def _rates(self) -> dict[LeaseToken, float]:
        return {
            slot.work.leased.token: slot.images_per_second
            for slot in self.slots
            if slot.work is not None and slot.images_per_second is not None
        }

    def _write_standings(self, connection: Connection, wall: float, *, at_once: bool) -> None:
        """How the devices stand, now and then and whenever one is free no more, or again."""
        standings = [] if self.floor is None else self.floor.standings
        causes = {one.device.uuid: one.availability.cause for one in standings}
        if standings and (at_once or causes != self._causes):
            self._causes = causes
            hosts.record_device_reports(connection, self._host_id, map(_in_record, standings), wall)

    def _is_troubled(self, slot: Slot) -> bool:
        return self.floor is not None and self.floor.troubled(slot.device.uuid)

    def _judge_gpu(self, floor: GpuScheduler, slot: Slot) -> None:
        for report in slot.reports:
            if isinstance(report, Finished):
                floor.rely_on(slot)
            elif isinstance(report, Failed) and report.fatal:
                floor.suspect(slot, report.candidate)

    def _write_score(self, connection: Connection, slot: Slot, work: Assignment, report: Finished, wall: float) -> None:
        recipe = {**without_timing(work.assign.training), "precision": report.precision}
        batch = recipe["batch_size"]
        if work.assign.split_batches:  # a deviation: told with the score
            batch = recipe["micro_batch"] = batch // 2
        share = None
        if report.peak_bytes is not None:
            share = measured_share_of_estimate(
                peak_bytes=report.peak_bytes,
                images_bytes=report.images_bytes,
                params=work.leased.params,
                mult_adds=work.leased.mult_adds,
                batch_size=batch,
            )
        measured = {VALIDATION_ACCURACY: report.accuracy, "val_loss": report.loss}
        worth = fitness(
            report.accuracy, work.leased.mult_adds, work.objective["target_mult_adds"], work.objective["exponent"]
        )
        if work.assign.final_model:
            measured = {TEST_ACCURACY: report.accuracy, "test_loss": report.loss}
            worth = report.accuracy  # what a network costs plays no part in how good it is
        transitions.record_score(
            connection,
            work.leased.token,
            fitness=worth,
            metrics=measured,
            seed=work.assign.seed,
            provenance=_provenance(recipe, report.data_digest, slot),
            device_seconds=report.device_seconds,
            now=wall,
            lineage_epochs=work.lineage_epochs,
            share_inherited=report.share_inherited,
            logit_distance=report.logit_distance,
            peak_bytes=report.peak_bytes,
            memory_share=share,
        )

    def _write_ending(self, connection: Connection, slot: Slot, wall: float) -> None:
        """A worker's pipe has ended: close its row, and its candidate's attempt where it left one open."""
        kind, message = slot.kill_reason or _cause(slot.status)
        if slot.worker_id is not None:
            stopped = "the daemon was stopped" if self._draining and slot.leaving else message
            hosts.record_worker_end(connection, slot.worker_id, slot.evicted or stopped, wall)
        if slot.work is not None and not slot.final:
            seconds = 0.0 if slot.progress is None else slot.progress.device_seconds
            with suppress(StaleLeaseError):
                transitions.record_failure(
                    connection, slot.work.leased.token, kind, message, device_seconds=seconds, now=wall
                )

    def _in_words(self) -> str | None:
        """What keeps candidates from being trained, if something does."""
        if any(slot.phase == FULL_DISK for slot in self.slots):
            return f"the disk of {self._settings.artifacts} is full; training goes on when there is room"
        failing = [slot for slot in self.slots if slot.failed_starts > 1 and not slot.on_gpu]
        if failing:
            if failing[0].start_error is not None:
                return f"workers cannot be started: {failing[0].start_error}"
            log = self._launcher.log_file(failing[0].number)
            return f"workers end before they are ready ({failing[0].failed_starts} times); see {log}"
        if self._draining or any(slot.process is not None or slot.may_start for slot in self.slots):
            return None
        return self._no_device()

    def _no_device(self) -> str | None:
        """Why there is no slot at all. Said anew when a cause changes, not with every figure."""
        standings = [] if self.floor is None else self.floor.standings
        if self._processor in self._paused and any(not slot.on_gpu for slot in self.slots):
            standings = [*standings, DeviceStatus(CPU_DEVICE, PAUSED)]
        if all(one.availability.free for one in standings):
            return None
        causes = tuple(one.availability.cause for one in standings)
        if self._causes_said is None or self._causes_said[0] != causes:
            self._causes_said = causes, f"no device is free: {describe_unavailable(standings)}"
        return self._causes_said[1]

    def _advance(
        self, connection: Connection, now: float, wall: float, garbage: list[str]
    ) -> tuple[list[tuple[Slot, Assignment]], bool]:
        """Move every search on and hand out work; whether the `only` search has ended."""
        idle = [slot for slot in self.slots if slot.idle]
        assigned: list[tuple[Slot, Assignment]] = []
        going_on = self._only is None
        collecting = now >= self._collect_at
        for row in fetch_searches(connection, self._open()):
            if row.wish != DesiredState.RUN:
                self._tell_to_stop(row)
                continue
            finished = advance_search(connection, row, wall)
            if collecting or finished:
                garbage += drop_unneeded_checkpoints(connection, lock_search(connection, row.id))
            # Where one finishes, its yardstick may just have begun.
            going_on = True
            if finished:
                continue
            if idle and not self._draining and not row.over_budget:
                idle = self._hand_out(connection, row, idle, assigned, wall)
        if collecting:
            self._collect_at = now + self._patience.collect
        return assigned, not going_on

    def _hand_out(
        self,
        connection: Connection,
        row: SearchRecord,
        idle: list[Slot],
        assigned: list[tuple[Slot, Assignment]],
        wall: float,
    ) -> list[Slot]:
        """Lease what a search has pending for idle slots; those that are left."""
        limit = row.spec["budget"].get("slots")
        more = len(idle) if limit is None else limit - leases.count_leased(connection, row.id)
        left: list[Slot] = []
        for number, slot in enumerate(idle):
            if more <= 0:
                return left + idle[number:]
            room = self._room(slot, row, assigned)
            assert slot.worker_id is not None
            leased = room and transitions.lease_next(
                connection, row.id, host_id=self._host_id, worker_id=slot.worker_id, now=wall, lease_filter=room
            )
            if leased:
                assigned.append((slot, work_for(connection, self._settings, row, leased)))
                more -= 1
            elif room == ANY_CANDIDATE:
                return left + idle[number:]
            else:
                left.append(slot)
        return left

    def _room(self, slot: Slot, row: SearchRecord, assigned: list[tuple[Slot, Assignment]]) -> LeaseFilter | None:
        """What may be trained beside what trains on a slot's device already; None: nothing."""
        given = [(other, work) for other, work in assigned if other.device.uuid == slot.device.uuid]
        here = [other for other in self.slots if other.device.uuid == slot.device.uuid and other.busy]
        thrifty = any(is_thrifty(other) for other in here)
        if thrifty or any(work.leased.thrift != MemoryFallback.NONE for _, work in given):
            return None
        if not here and not given:
            return ANY_CANDIDATE
        if self.floor is None or not slot.on_gpu:
            return LeaseFilter(alone=False)
        free = self.floor.left_bytes(slot.device.uuid, here) - sum(work.expected_bytes for _, work in given)
        fits = max_variable_bytes(free, row.memory_share)
        return LeaseFilter(alone=False, variable_bytes=fits, batch_size=row.spec["training"]["batch_size"])

    def _open(self) -> Select[Any]:
        query = select(search).order_by(search.c.priority.desc(), search.c.id)
        if self._only is not None:
            # With what measures it: it is not over before that is.
            only = select(search.c.id).where(search.c.name == self._only).scalar_subquery()
            measuring = (search.c.kind == SearchKind.YARDSTICK) & (search.c.source_id == only)
            query = query.where((search.c.id == only) | measuring)
        # A cancelled search is finished, but its workers have yet to be told.
        held = [slot.work.leased.search_id for slot in self.slots if slot.work is not None]
        return query.where(search.c.finished_at.is_(None) | search.c.id.in_(held))

    def _tell_to_stop(self, row: SearchRecord) -> None:
        for slot in self.slots:
            if slot.work is None or slot.work.leased.search_id != row.id or slot.process is None:
                continue
            if slot.stop_by is None:
                token = slot.work.leased.token
                kind = Cancel if row.wish == DesiredState.CANCELLED else Release
                slot.process.send(kind(token.candidate, token.attempt))
                slot.stop_by = self._monotonic() + self._patience.obedience

    def _committed(self, written: CommitActions, now: float) -> None:
        if now >= self._count_at:
            self._count_at = now + self._patience.lease / 3
        for slot in self.slots:
            if self.floor is not None and slot.on_gpu:
                self._judge_gpu(self.floor, slot)
            if slot.final:
                slot.drop()
                slot.stop_by = slot.stop_by if slot.leaving else None
            slot.reports.clear()
            if slot.ended:
                _sweep(slot)
                slot.vacate(now, self._patience)
        for slot in written.stale:
            if slot.work is not None and slot.process is not None and slot.stop_by is None:
                token = slot.work.leased.token
                slot.process.send(Cancel(token.candidate, token.attempt))
                slot.stop_by = now + self._patience.obedience
        for slot, work in written.assigned:
            slot.take(work, now)
            if slot.process is not None:
                slot.process.send(work.assign)
        for path in written.garbage:
            with suppress(OSError):  # what stays is removed as a leftover
                (self._settings.artifacts / path).unlink()
        self.finished = written.ended and all(slot.work is None for slot in self.slots)
        if not self.finished:
            self._launch(now)

    def _over(self) -> bool:
        if self._killing:  # whatever the record has yet to hear: the next daemon takes the leases back
            return all(slot.process is None or slot.ended for slot in self.slots)
        if self._draining:
            return all(slot.process is None for slot in self.slots)
        return self.finished

    def _end_workers(self) -> None:
        for slot in self.slots:
            if slot.process is not None:
                slot.process.kill()
                if not slot.ended:
                    slot.process.close()
        if self.floor is not None:
            self.floor.close()
        self._selector.close()
        self._watch.close()


def _epoch_record(report: EpochDone, use: ResourceUse | None) -> EpochRecord:
    return EpochRecord(
        number=report.epoch,
        train_loss=report.train_loss,
        train_accuracy=report.train_accuracy,
        val_loss=report.val_loss,
        val_accuracy=report.val_accuracy,
        learning_rate=report.learning_rate,
        seconds=report.seconds,
        ended_at=report.ended_at,
        resource_use=use,
    )


def _checkpoint_record(report: Checkpointed | Resumed, path: str) -> CheckpointRecord:
    return CheckpointRecord(
        path=path,
        digest=report.digest,
        bytes=report.bytes,
        epoch=report.epoch,
        batch=report.batch,
    )


def _resumption_record(report: Resumed, folder: str) -> ResumptionRecord:
    return ResumptionRecord(
        checkpoint=None if report.path is None else _checkpoint_record(report, folder + report.path),
        damaged={folder + path: reason for path, reason in report.damaged.items()},
    )


def _sweep(slot: Slot) -> None:
    """Remove the file that a worker was writing when it was killed."""
    if slot.work is not None:
        assign = slot.work.assign
        for file in list_partial_files(Path(assign.checkpoint_folder), assign.candidate, assign.attempt):
            file.unlink(missing_ok=True)


def _cause(status: int) -> tuple[FailureKind, str]:
    if status < 0:
        name = signal.Signals(-status).name
        lost = -status in (signal.SIGKILL, signal.SIGTERM)
        return (FailureKind.LOST if lost else FailureKind.SIGNAL), f"the worker was ended by {name}"
    return FailureKind.LOST, f"the worker left with status {status}"


def _provenance(recipe: dict[str, Any], data_digest: str, slot: Slot) -> Provenance:
    hello = slot.hello
    assert hello is not None
    facts = {
        "recipe": recipe,
        "data_digest": data_digest,
        "versions": hello.versions,
        "device": slot.device.name if slot.on_gpu else hello.device,
        "cpu_capability": hello.cpu_capability,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Provenance(digest, **facts)  # type: ignore[arg-type]


def _in_record(standing: DeviceStatus) -> hosts.DeviceReport:
    device = standing.device
    availability = standing.availability
    waits = None if availability.free or availability.cause is Cause.FULL else availability.reason
    return hosts.DeviceReport(device.uuid, device.kind, device.name, waits, device.used_bytes, device.total_bytes)


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
