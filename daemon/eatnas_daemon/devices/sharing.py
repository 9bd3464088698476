"""Share GPUs with other users: yield to them, wait, and come back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from eatnas_daemon.devices.availability import Availability, Cause, judge
from eatnas_daemon.devices.locks import LOCKS, Hold, hold
from eatnas_daemon.devices.model import CPU, DeviceSnapshot, Holder, Identity
from eatnas_daemon.devices.options import DeviceOptions

SHORTEST_WAIT: Final = 30.0


LONGEST_WAIT: Final = 3600.0


class Policy(StrEnum):
    """What to do when somebody else comes to a device in use."""

    YIELD = "yield"
    STAY = "stay"


class Randomness(Protocol):
    """A stream of draws, as `eatnas_db.domain.rng.Chance` is one."""

    def bits(self) -> int:
        """A whole number, uniform over 64 bits."""
        ...


def _soon(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"within {minutes} minutes" if minutes > 1 else "within a minute"


def should_yield(policy: Policy, probed: DeviceSnapshot, verdict: Availability, own_pids: Collection[int]) -> bool:
    """Whether our workers leave a device because somebody else is there.

    Of two daemons with these manners the one that came later leaves; where that cannot be told, both do.
    """
    if policy is Policy.STAY or verdict.cause is not Cause.FOREIGN or not own_pids:
        return False
    ours = [one.identity.since for one in probed.holders if one.pid in own_pids and one.identity is not None]
    came = min((since for since in ours if since is not None), default=None)
    return not verdict.foreign or any(not _gives_way(one, came) for one in verdict.foreign)


def _gives_way(other: Holder, came: float | None) -> bool:
    who = other.identity or Identity()
    return who.polite and came is not None and who.since is not None and came < who.since


def backoff(before: int, used_seconds: float, chance: Randomness) -> tuple[int, float]:
    """How many times in a row we have left a device now, and for how many seconds we stay away.

    Doubling and random, so that two who left at once do not come back at once for ever.
    """
    count = 1 if used_seconds >= LONGEST_WAIT else before + 1
    longest = min(SHORTEST_WAIT * 2 ** (count - 1), LONGEST_WAIT)
    return count, longest * (1 + chance.bits() / 2**64) / 2


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device, what was decided about it, and whether our workers have to leave it."""

    device: DeviceSnapshot
    verdict: Availability
    leave: bool = False


def reasons_in_words(standings: Sequence[DeviceStatus]) -> str:
    """Why devices are not free, those with one reason together."""
    groups: dict[str, list[DeviceSnapshot]] = {}
    for one in standings:
        if not one.verdict.free:
            groups.setdefault(one.verdict.reason, []).append(one.device)
    return "; ".join(f"{_together(devices)}: {reason}" for reason, devices in groups.items())


def _together(devices: Sequence[DeviceSnapshot]) -> str:
    gpus = [one for one in devices if one.kind != CPU]
    if len(gpus) < 2:
        return ", ".join(one.label for one in devices)
    others = [one.label for one in devices if one.kind == CPU]
    return ", ".join([f"GPUs {', '.join(str(one.index) for one in gpus)}", *others])


class DeviceLocks:
    """The devices of one daemon: which may be used now, which it holds, and where it has given way."""

    def __init__(
        self,
        look: Callable[[], Sequence[DeviceSnapshot]],
        wishes: DeviceOptions,
        chance: Randomness,
        *,
        policy: Policy = Policy.YIELD,
        folder: Path = LOCKS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._wishes, self._chance, self._policy = look, wishes, chance, policy
        self._folder, self._monotonic = folder, monotonic
        self._held: dict[str, tuple[Hold, float]] = {}
        self._leaving: set[str] = set()
        self._suspected: set[str] = set()
        """Where memory alone has told of somebody else, once so far."""
        self._turns: dict[str, tuple[int, float]] = {}
        """How often a device was left in a row, and until when."""

    def stand(
        self, own: Mapping[str, Collection[int]], needs_bytes: int = 0, own_bytes: Mapping[str, int] | None = None
    ) -> list[DeviceStatus]:
        """Decide about every device. `own` are our workers on each; a device that has none any more is given back.

        `own_bytes` is what these hold by their own account.
        """
        now = self._monotonic()
        for uuid in [uuid for uuid in self._held if not own.get(uuid)]:
            self._give_back(uuid, now)
        for lock, _ in self._held.values():
            lock.refresh()
        told = own_bytes or {}
        return [
            self._standing(device, own.get(device.uuid, ()), needs_bytes, told.get(device.uuid), now)
            for device in self._look()
        ]

    def _standing(
        self, seen: DeviceSnapshot, own_pids: Collection[int], needs_bytes: int, own_bytes: int | None, now: float
    ) -> DeviceStatus:
        device = replace(seen, locked_by=None) if seen.uuid in self._held else seen
        verdict = judge(device, self._wishes, own_pids, needs_bytes, own_bytes=own_bytes)
        if should_yield(self._policy, device, verdict, own_pids):
            # Memory is told by our workers a little later than it is taken: that alone is looked at twice.
            if verdict.foreign or device.uuid in self._suspected:
                self._leaving.add(device.uuid)
            self._suspected.add(device.uuid)
        else:
            self._suspected.discard(device.uuid)
        left = self._turns.get(device.uuid, (0, now))[1] - now
        if device.uuid in self._leaving:
            # Also when the other one has gone meanwhile: it has to end before it may begin again.
            verdict = replace(verdict, free=False)
        elif verdict.free and left > 0:
            verdict = Availability(False, f"it was left to somebody else; tried again {_soon(left)}", Cause.WAITING)
        return DeviceStatus(device, verdict, leave=device.uuid in self._leaving)

    @property
    def held(self) -> frozenset[str]:
        """The devices whose locks are ours now."""
        return frozenset(self._held)

    def take(self, device: DeviceSnapshot) -> bool:
        """Hold a device before the first worker starts there; False when another daemon was quicker.

        Raises `ConflictError` where its lock file cannot be used.
        """
        if device.kind == CPU or device.uuid in self._held:
            return True
        lock = hold(device.uuid, self._folder)
        if lock is not None:
            self._held[device.uuid] = lock, self._monotonic()
        return lock is not None

    def close(self) -> None:
        """Give everything back."""
        for lock, _ in self._held.values():
            lock.release()
        self._held.clear()

    def _give_back(self, uuid: str, now: float) -> None:
        lock, since = self._held.pop(uuid)
        lock.release()
        if uuid in self._leaving:
            self._leaving.remove(uuid)
            count, wait = backoff(self._turns.get(uuid, (0, 0.0))[0], now - since, self._chance)
            self._turns[uuid] = count, now + wait
