"""The reports of the daemon under attack: one JSON line for each change of its state."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

ACTIVE_PHASES = frozenset({"training", "validating", "saving", "disk full", "program"})


class Token(NamedTuple):
    """The attempt that a worker trains."""

    candidate: int
    attempt: int


@dataclass(frozen=True)
class SlotState:
    """A slot of the daemon, its worker and its training."""

    number: int
    pid: int | None
    token: Token | None
    phase: str


@dataclass(frozen=True)
class DaemonState:
    """All slots at one moment."""

    at: float = 0.0
    """The time of the report, in seconds of this machine's monotonic clock."""
    problem: str | None = None
    """The reason why the daemon makes no progress."""
    slots: tuple[SlotState, ...] = ()
    finished: bool = False
    """Whether the search has ended."""

    def trainings(self) -> list[SlotState]:
        """Return the slots whose workers train."""
        return [slot for slot in self.slots if slot.pid and slot.token and slot.phase in ACTIVE_PHASES]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: bytes) -> DaemonState:
        fields = json.loads(line)
        slots = [{**slot, "token": slot["token"] and Token(*slot["token"])} for slot in fields.pop("slots")]
        return cls(**fields, slots=tuple(SlotState(**slot) for slot in slots))
