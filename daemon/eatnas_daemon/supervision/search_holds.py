"""Keep track of the searches that a supervisor has set aside on its host, and try them again later."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import Connection

from eatnas_daemon.workers.slots import Slot
from eatnas_db.domain.states import FailureKind, HoldCause
from eatnas_db.holds import SearchHold, lift_hold, list_holds_of_host, place_hold
from eatnas_db.leases import LeaseToken
from eatnas_db.queries.progress import count_leased
from eatnas_db.queries.searches import SearchRecord
from eatnas_protocol.messages import Failed

_HOLD_CAUSES: Final[dict[str, HoldCause]] = {
    FailureKind.UNREADABLE_DATA: HoldCause.DATA,
    FailureKind.MISSING_PLUGIN: HoldCause.PLUGIN,
}
"""The kinds of failures that set a search aside, each with the cause of the hold."""
MEMORY_SECONDS: Final = 600.0
"""If a search fails again within this time, its delay continues to grow from the previous delay."""


class _Failure(NamedTuple):
    cause: HoldCause
    reason: str


class _Lifted(NamedTuple):
    tries: int
    at: float


class SearchHolds:
    """Keeps a copy of one host's holds in memory, so that a transaction without changes need not read the holds."""

    def __init__(self, host_id: int, slots: list[Slot]) -> None:
        self._host_id, self._slots = host_id, slots
        self._holds: dict[int, SearchHold] = {}
        self._failures: dict[int, _Failure] = {}
        """The failures that are not recorded yet, by the id of the search."""
        self._lifted: dict[int, _Lifted] = {}
        self._tries: dict[int, LeaseToken] = {}
        """For each search, the lease of the training that tests whether the data and the plug-ins are available again.
        """

    def add_failure(self, search_id: int, cause: HoldCause, reason: str) -> None:
        """Set a search aside in the next transaction that commits."""
        self._failures[search_id] = _Failure(cause, reason)

    def set_aside(self, connection: Connection, search_id: int, reason: str, now: float) -> None:
        """Set a search aside in this transaction because the host cannot train its candidates."""
        self._place(connection, search_id, _Failure(HoldCause.DATA, reason), now)

    def write(self, connection: Connection, now: float, *, changed: bool) -> None:
        """Write the changes.

        `changed` is true if other programs may have changed the holds, or a transaction has failed.
        """
        if changed:
            self._holds = list_holds_of_host(connection, self._host_id)
        for slot in self._slots:
            self._read_reports(slot)
        for search_id, failure in self._failures.items():
            self._place(connection, search_id, failure, now)
        for slot in self._slots:
            training = slot.training
            if training is not None and training.has_data:
                search_id = training.assignment.leased.search_id
                if self._tries.get(search_id) == training.token:
                    self._lift(connection, search_id, HoldCause.DATA, now)
                    self._lift(connection, search_id, HoldCause.PLUGIN, now)

    def _read_reports(self, slot: Slot) -> None:
        if slot.worker is None or slot.training is None:
            return
        for report in slot.worker.reports:
            if isinstance(report, Failed) and report.kind in _HOLD_CAUSES:
                search_id = slot.training.assignment.leased.search_id
                self.add_failure(search_id, _HOLD_CAUSES[report.kind], report.message)

    def with_errors(self) -> list[int]:
        """Return the ids of the searches that could not be advanced because of an error."""
        return [search_id for search_id, held in self._holds.items() if held.cause == HoldCause.ERROR]

    def allows_advance(self, search_id: int, now: float) -> bool:
        """Return whether the search may be advanced now: advancing it caused no error, or its next try is due."""
        held = self._holds.get(search_id)
        return held is None or held.cause != HoldCause.ERROR or held.is_due(now)

    def max_leases(self, search_id: int, now: float) -> int | None:
        """Return the maximum number of candidates of a search to lease now. None without a hold; with a hold, 1 if a
        try is due, else 0.
        """
        held = self._holds.get(search_id)
        if held is None:
            return None
        if held.cause == HoldCause.ERROR or not held.is_due(now):
            return 0
        trains = any(
            slot.training is not None and slot.training.token == self._tries.get(search_id) for slot in self._slots
        )
        return 0 if trains else 1

    def limit_leases(self, connection: Connection, search: SearchRecord, count: int, now: float) -> int:
        """Return how many of `count` candidates may be leased now, given the budget and the hold of the search."""
        limits = [count]
        if (slots := search.spec["budget"].get("slots")) is not None:
            limits.append(slots - count_leased(connection, search.id))
        if (leases := self.max_leases(search.id, now)) is not None:
            limits.append(leases)
        return max(0, min(limits))

    def record_lease(self, search_id: int, token: LeaseToken) -> None:
        """Use this training as the next try if the search is set aside."""
        if search_id in self._holds:
            self._tries[search_id] = token

    def record_advance(self, connection: Connection, search_id: int, now: float) -> None:
        """End the hold of a search that has been advanced without an error."""
        self._lift(connection, search_id, HoldCause.ERROR, now)

    def after_commit(self) -> None:
        """Forget the failures that the transaction has recorded."""
        self._failures.clear()

    def _place(self, connection: Connection, search_id: int, failure: _Failure, now: float) -> None:
        lifted = self._lifted.get(search_id)
        recent = lifted is not None and abs(now - lifted.at) < MEMORY_SECONDS
        placed = place_hold(
            connection,
            self._host_id,
            search_id,
            cause=failure.cause,
            reason=failure.reason,
            now=now,
            earlier_tries=lifted.tries if lifted is not None and recent else 0,
        )
        if placed is not None:
            self._holds[search_id] = placed

    def _lift(self, connection: Connection, search_id: int, cause: HoldCause, now: float) -> None:
        held = self._holds.get(search_id)
        if held is None or held.cause != cause or search_id in self._failures:
            return
        del self._holds[search_id]
        self._lifted[search_id] = _Lifted(held.tries, now)
        lift_hold(connection, self._host_id, search_id, now)
