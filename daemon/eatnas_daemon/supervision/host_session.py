"""Register the host when a supervisor starts, and mark the host's workers as ended when the supervisor stops."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from eatnas_daemon.devices.model import CPU, CPU_DEVICE
from eatnas_daemon.supervision.change_listener import ChangeListener
from eatnas_db import hosts
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.locks import list_connected_hosts, outwait_frozen_programs
from eatnas_db.database.transactions import run_transaction
from eatnas_db.holds import remove_holds_of_other_sessions
from eatnas_db.lost_leases import reclaim_leases
from eatnas_db.searches.control import set_waiting_reason
from eatnas_db.searches.open_searches import lock_open_searches


@dataclass(frozen=True, slots=True)
class SupervisedHost:
    """The host of a supervisor in the database."""

    id: int
    owner: str
    """The token of this supervisor. On a server, every write checks it."""
    processor: str
    """The UUID of this host's CPU in the database."""
    paused: frozenset[str]
    """The UUIDs of the devices that are paused when the supervisor starts."""


def start_host_session(
    engine: Engine, changes: ChangeListener, name: str, now: float, *, with_processor: bool
) -> SupervisedHost:
    """Register the host, and end the leases that an earlier supervisor has left.

    Raises `ConflictError` if another supervisor is running under this host's name.
    """
    processor = hosts.cpu_uuid(name)

    def register(connection: Connection) -> tuple[int, frozenset[str]]:
        outwait_frozen_programs(connection)
        host_id = hosts.register_host(connection, name, now)
        if with_processor:
            hosts.register_device(connection, host_id, processor, CPU, CPU_DEVICE.name)
        return host_id, hosts.list_paused_devices(connection, host_id)

    def claim(connection: Connection) -> str:
        outwait_frozen_programs(connection)
        lock_open_searches(connection)
        owner = hosts.claim_host(connection, host_id)
        reclaim_leases(connection, host_id, now)
        for left_id in [host_id] if is_postgresql(connection) else hosts.list_host_ids(connection):
            hosts.record_lost_workers(connection, left_id, "the daemon was restarted", now)
        connected = list_connected_hosts(connection)
        # A new daemon immediately tries the searches again that an earlier daemon has set aside.
        remove_holds_of_other_sessions(connection, connected - {host_id})
        if connected <= {host_id}:
            # Clear the waiting reason that an earlier daemon has left.
            set_waiting_reason(connection, None)
        return owner

    host_id, paused = run_transaction(engine, register)
    changes.lock_host(host_id, name)
    owner = run_transaction(engine, claim)
    return SupervisedHost(host_id, owner, processor, paused)


def end_host_session(engine: Engine, host: SupervisedHost, now: float) -> None:
    """Mark the workers of the host as ended.

    Raises `RecordError` on failure, and `OwnershipError` if another daemon owns the host.
    """

    def end(connection: Connection) -> None:
        hosts.require_owner(connection, host.id, host.owner)
        hosts.record_lost_workers(connection, host.id, "the daemon left", now)

    run_transaction(engine, end)
