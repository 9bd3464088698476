"""The events that a hook command has received, in a file that outlives the daemon."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from eatnas_db.atomic_files import atomic_write


@dataclass(slots=True)
class DeliveryState:
    """The delivered events: all events up to `delivered_until`, and the later events in `delivered`.

    `delivered_until_at` is the time of the event `delivered_until`; None if the record had no such event. A restored
    record assigns the same ids to new events. The time distinguishes the new events from the old ones.
    """

    record_uuid: str
    delivered_until: int
    delivered_until_at: float | None = None
    delivered: set[int] = field(default_factory=set)
    waiting_reasons: dict[str, str] = field(default_factory=dict)
    """The reason of the last delivered notification for each waiting search."""

    @classmethod
    def read(cls, file: Path, record_uuid: str) -> DeliveryState | None:
        """Return the state in a file, or None if the file is missing, damaged, or belongs to another record."""
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            state = cls(
                record_uuid=fields["record"],
                delivered_until=int(fields["after"]),
                delivered_until_at=fields["after_at"],
                delivered=set(fields["delivered"]),
                waiting_reasons=dict(fields["waiting"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return state if state.record_uuid == record_uuid else None

    def write(self, file: Path) -> None:
        """Write the state to a file atomically. Raises `OSError`."""
        fields = {
            "record": self.record_uuid,
            "after": self.delivered_until,
            "after_at": self.delivered_until_at,
            "delivered": sorted(self.delivered),
            "waiting": self.waiting_reasons,
        }
        with atomic_write(file) as opened:
            opened.write(json.dumps(fields).encode())

    def advance(self, delivered_until: int) -> None:
        """Increase `delivered_until`, and remove the events up to it from `delivered`."""
        self.delivered_until = max(self.delivered_until, delivered_until)
        self.delivered = {event_id for event_id in self.delivered if event_id > self.delivered_until}
