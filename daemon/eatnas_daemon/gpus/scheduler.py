"""Where workers may be: slots are opened on devices that are free, and given up where these are wanted by others."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from eatnas_daemon.devices.availability import Availability, Cause
from eatnas_daemon.devices.locks import LOCK_FOLDER
from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_daemon.devices.monitor import DeviceMonitor
from eatnas_daemon.devices.options import DeviceOptions
from eatnas_daemon.devices.placement import find_placement_error
from eatnas_daemon.devices.sharing import DeviceSharing, DeviceStatus, SharingPolicy, next_backoff
from eatnas_daemon.workers.slots import Slot, Timeouts
from eatnas_db.domain.memory_estimate import CONTEXT_BYTES
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.states import FailureKind, MemoryFallback
from eatnas_db.errors import ConflictError

SILENT_LOOKS: Final = 3
"""A device that answers none of so many looks in a row is left by its workers."""
DOUBTFUL_LOOKS: Final = 3
"""A worker that is not seen on its device in so many looks is not there."""
FORGOTTEN_SECONDS: Final = 10.0
"""So long after its end a worker may still be told by the driver."""
FAILED_STARTS: Final = 2
SUSPICIONS: Final = 2
"""So many candidates in a row after which a worker cannot go on, and the device is to blame."""
PAUSED: Final = Availability(False, "paused; resume it with `eatnas-db devices resume`", Cause.PAUSED)


@dataclass(slots=True)
class _Trust:
    """How a device has served so far."""

    silent_looks: int = 0
    failures: int = 0
    """How often in a row it was put aside."""
    victims: set[int] = field(default_factory=set)
    """Candidates after which a worker could not go on, since one has ended well."""
    why: str | None = None
    until: float = 0.0


class GpuScheduler:
    """The GPUs of one daemon, and its workers on them. It never waits for the driver.

    `most`: how many workers there may be on all of them; None: as many as fit. `per_device`: on one of them.
    """

    def __init__(
        self,
        lookout: DeviceMonitor,
        wishes: DeviceOptions,
        chance: KeyedRng,
        *,
        policy: SharingPolicy = SharingPolicy.YIELD,
        most: int | None = None,
        per_device: int = 1,
        folder: Path = LOCK_FOLDER,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookout, self._chance, self._monotonic = lookout, chance, monotonic
        self._most, self._per_device = most, per_device
        self._pool = DeviceSharing(self._seen, wishes, chance, policy=policy, folder=folder, monotonic=monotonic)
        self._trust: dict[str, _Trust] = {}
        self._living: set[int] = set()
        self._gone: dict[int, float] = {}
        """Workers that have ended of late: the driver may still tell of them, and they are nobody else's."""
        self._before: dict[int, list[DeviceSnapshot]] = {}
        """What was seen before a slot's worker was started."""
        self._held_at: dict[str, float] = {}
        """When a device's lock was last ours."""
        self._proved_at: dict[int, float] = {}
        self.standings: list[DeviceStatus] = []

    def arrange(self, slots: list[Slot], paused: Collection[str], patience: Timeouts) -> None:
        """Open slots where a device is free, evict workers where it is not theirs any more, drop what is left."""
        now = self._monotonic()
        own = _pids(slots)
        self._remember(own, now)
        self._held_at |= dict.fromkeys(self._pool.held, now)
        told = {uuid: sum(slot.told_bytes for slot in slots if slot.device.uuid == uuid) for uuid in own}
        self.standings = [
            self._judged(standing, paused, now)
            for standing in self._pool.statuses(own, worker_bytes=told)
            if standing.device.kind != CPU
        ]
        for standing in self.standings:
            here = [slot for slot in slots if slot.device.uuid == standing.device.uuid]
            for slot in here:
                self._prove(slot, now)
            if standing.evict:
                for slot in here:
                    slot.evict(standing.availability.reason, now, patience)
            elif standing.availability.free:
                self._fill(standing, slots, here, now)
        for slot in slots:
            slot.sample()
        known = {standing.device.uuid: standing for standing in self.standings}
        slots[:] = [slot for slot in slots if not slot.on_gpu or _stays(slot, known.get(slot.device.uuid))]

    def started(self, pid: int) -> None:
        """A worker was started: it is known as ours even if it has ended before the next look."""
        self._living.add(pid)

    def suspect(self, slot: Slot, candidate_id: int) -> None:
        """A worker cannot go on after a training; when that is another candidate's, none starts there for a while."""
        trust = self._trust_in(slot.device.uuid)
        trust.victims.add(candidate_id)
        if len(trust.victims) >= SUSPICIONS:
            trust.victims.clear()
            why = "one training after another ends its worker there"
            self._put_aside(slot.device.uuid, why, self._monotonic())

    def rely_on(self, slot: Slot) -> None:
        """A training has ended well on a GPU."""
        trust = self._trust_in(slot.device.uuid)
        trust.victims.clear()
        trust.failures, trust.why, trust.until = 0, None, 0.0

    def left_bytes(self, uuid: str, here: Collection[Slot]) -> int:
        """What of a device's memory may be given to one more training; 0 where it is not known."""
        return next((left_bytes(one.device, here) for one in self.standings if one.device.uuid == uuid), 0)

    def load(self, uuid: str) -> float | None:
        """The share of a device in use, as it was seen last."""
        percent = next((one.device.utilisation_percent for one in self.standings if one.device.uuid == uuid), None)
        return None if percent is None else percent / 100

    def troubled(self, uuid: str) -> bool:
        """Whether a device does not answer."""
        return any(one.device.uuid == uuid and one.availability.cause is Cause.ERROR for one in self.standings)

    def close(self) -> None:
        """Give all devices back."""
        self._pool.close()
        self._lookout.close()

    def _seen(self) -> list[DeviceSnapshot]:
        """The last look, without what has been ours since: workers that have ended, and locks that were given back."""
        return [self._without_ours(device) for device in self._lookout.snapshots(wait=False)]

    def _without_ours(self, device: DeviceSnapshot) -> DeviceSnapshot:
        gone = [one for one in device.processes if one.pid in self._gone]
        free = device.free_bytes + sum(one.used_bytes or 0 for one in gone)
        return replace(
            device,
            processes=tuple(one for one in device.processes if one not in gone),
            free_bytes=min(free, device.total_bytes),
            locked_by=None if self._was_ours(device) else device.locked_by,
        )

    def _was_ours(self, device: DeviceSnapshot) -> bool:
        """Whether the look has met our own lock: as it was signed, or just before that or just after."""
        locker = device.locked_by
        if locker is None or locker.error is not None:
            return False
        lately = self._lookout.probe_started_at <= self._held_at.get(device.uuid, -math.inf) + 1.0
        return locker.pid == os.getpid() or (locker.pid is None and lately)

    def _remember(self, own: dict[str, set[int]], now: float) -> None:
        living = {pid for pids in own.values() for pid in pids}
        self._gone |= dict.fromkeys(self._living - living, now)
        self._living = living
        for pid, since in list(self._gone.items()):
            if pid in living or self._lookout.probe_started_at > since + FORGOTTEN_SECONDS:
                del self._gone[pid]

    def _trust_in(self, uuid: str) -> _Trust:
        return self._trust.setdefault(uuid, _Trust())

    def _judged(self, standing: DeviceStatus, paused: Collection[str], now: float) -> DeviceStatus:
        uuid, verdict = standing.device.uuid, standing.availability
        trust = self._trust_in(uuid)
        trust.silent_looks = trust.silent_looks + 1 if verdict.cause is Cause.ERROR else 0
        if uuid in paused:
            return DeviceStatus(standing.device, PAUSED, evict=True)
        if trust.silent_looks >= SILENT_LOOKS:
            return replace(standing, evict=True)
        if verdict.free and trust.why is not None and now < trust.until:
            return DeviceStatus(standing.device, Availability(False, trust.why, Cause.QUARANTINED), standing.evict)
        return standing

    def _fill(self, standing: DeviceStatus, slots: list[Slot], here: list[Slot], now: float) -> None:
        """Let one more worker start on a free device; the next one only when this one is at work."""
        device = standing.device
        waiting = [slot for slot in here if slot.process is None]
        if waiting and waiting[0].failed_starts >= FAILED_STARTS:
            log = f"logs/worker-{waiting[0].number}.log"
            error = waiting[0].start_error
            why = f"workers cannot be started: {error}" if error else f"workers end before they are ready; see {log}"
            self._put_aside(device.uuid, why, now)
            for slot in waiting:
                slot.may_start = False
            return
        if not waiting and not self._more_wanted(device, slots, here):
            return
        try:
            if not self._pool.acquire(device):
                return
        except ConflictError as error:
            self._put_aside(device.uuid, str(error), now)
            return
        slot = waiting[0] if waiting else Slot(_number(slots), device, proven=False)
        slot.may_start = True
        self._before[slot.number] = self._lookout.snapshots(wait=False)
        if not waiting:
            slots.append(slot)

    def _more_wanted(self, device: DeviceSnapshot, slots: list[Slot], here: list[Slot]) -> bool:
        """Whether another worker is to start there: the first at once, each further one when all are at work."""
        if self._most is not None and sum(slot.on_gpu for slot in slots) >= self._most:
            return False
        if not here:
            return True
        if len(here) >= self._per_device or not all(slot.busy and slot.progress is not None for slot in here):
            return False
        if any(slot.on_gpu and not slot.busy for slot in slots) or any(is_thrifty(slot) for slot in here):
            return False
        another = max(slot.work.expected_bytes for slot in here if slot.work is not None)
        # Its context twice: here is who asks for it, and what the training is judged by afterwards.
        return left_bytes(device, here) >= 2 * CONTEXT_BYTES + another

    def _prove(self, slot: Slot, now: float) -> None:
        """See a new worker on its own device, or refuse it."""
        hello, process, begun_at = slot.hello, slot.process, self._lookout.probe_started_at
        if hello is None or process is None or slot.proven or slot.leaving or slot.kill_reason is not None:
            return
        uuid = slot.device.uuid
        others = [device.uuid for device in self._lookout.snapshots(wait=False) if device.uuid != uuid]
        why = None
        if (elsewhere := next((one for one in others if _same(one, hello.gpu_uuid)), None)) is not None:
            why = f"a worker for {uuid} started on {elsewhere}"
        elif begun_at <= max(slot.hello_at, self._proved_at.get(slot.number, 0.0)):
            return
        else:
            self._proved_at[slot.number] = begun_at
            seen = self._lookout.snapshots(wait=False)
            why = find_placement_error(uuid, process.pid, hello.marker_bytes, self._before.get(slot.number, []), seen)
            blind = any(device.uuid == uuid and device.attribution_error is not None for device in seen)
            if why is not None and blind and _same(uuid, hello.gpu_uuid):
                why = None  # who is where cannot be seen, and CUDA itself has named this device
            slot.doubts += 1
            if why is not None and "started on" not in why and slot.doubts < DOUBTFUL_LOOKS:
                return
        if why is None:
            slot.proven = True
            return
        slot.kill_reason = FailureKind.LOST, why
        process.kill()
        self._put_aside(uuid, why, now)

    def _put_aside(self, uuid: str, why: str, now: float) -> None:
        trust = self._trust_in(uuid)
        trust.failures, wait = next_backoff(trust.failures, 0.0, self._chance)
        trust.why, trust.until = why, now + wait


def left_bytes(device: DeviceSnapshot, here: Iterable[Slot]) -> int:
    """What of a device's memory is free when all trainings there hold what they are expected to."""
    return device.free_bytes - sum(slot.outstanding_bytes for slot in here)


def is_thrifty(slot: Slot) -> bool:
    """Whether a training is in hand that wants its device for itself."""
    return slot.busy and slot.work is not None and slot.work.leased.thrift != MemoryFallback.NONE


def _pids(slots: Collection[Slot]) -> dict[str, set[int]]:
    own: dict[str, set[int]] = {}
    for slot in slots:
        if slot.on_gpu and slot.process is not None and not slot.ended:
            own.setdefault(slot.device.uuid, set()).add(slot.process.pid)
    return own


def _same(uuid: str, told: str | None) -> bool:
    """Whether CUDA's name of a device, which has no prefix, is the driver's."""
    return told is not None and uuid.removeprefix("GPU-") == told.removeprefix("GPU-")


def _number(slots: Collection[Slot]) -> int:
    taken = {slot.number for slot in slots}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def _stays(slot: Slot, standing: DeviceStatus | None) -> bool:
    if slot.process is not None:
        return True
    if standing is None or not slot.may_start:
        return False
    return standing.availability.free or standing.availability.cause is Cause.FULL
