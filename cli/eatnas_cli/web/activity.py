"""Read the activity of all hosts' slots, and the reasons why searches wait, for the live page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from eatnas_cli.daemon_status import DaemonStatus, describe_waits, read_status
from eatnas_cli.device_texts import describe_memory, describe_state
from eatnas_cli.host_sentences import describe_lost_hosts
from eatnas_daemon.search_status import current_status
from eatnas_db.database.engine import read_connection
from eatnas_db.queries.searches import get_search
from eatnas_db.queries.training_activity import IdleSlot, TrainingActivity, list_idle_slots
from eatnas_db.settings import Settings
from eatnas_report.formats import format_time
from eatnas_report.live_page import Fragment, SearchRow, activity_fragment, searches_fragment
from eatnas_report.tables import ReportColumn, ReportTable

COLUMNS = (
    ReportColumn("host"),
    ReportColumn("slot", "number"),
    ReportColumn("device"),
    ReportColumn("search"),
    ReportColumn("candidate", "candidate"),
    ReportColumn("attempt", "number"),
    ReportColumn("epochs", "number"),
    ReportColumn("images/s", "number"),
    ReportColumn("since (UTC)"),
)


def read_searches(settings: Settings) -> Fragment:
    """Return the list of searches."""
    status = read_status(settings)
    return searches_fragment(
        [
            SearchRow(
                name=row.name,
                status=current_status(row, status.supervised),
                settled=row.settled,
                budget=row.budget,
                best=row.best,
                created_at=row.created_at,
            )
            for row in status.searches
        ]
    )


def read_activity(settings: Settings, search: str | None = None) -> Fragment:
    """Return the activity of all slots, or of the slots that train one search. Raises `NotFoundError`."""
    status = read_status(settings)
    with read_connection(settings.database_url) as connection:
        if search is not None:
            get_search(connection, search)
        idle = list_idle_slots(connection) if status.supervised and search is None else ()
    if search is not None:
        status = _of_search(status, search)
    if not status.supervised:
        nothing = "No daemon is running; `eatnas-db daemon start` starts one."
    else:
        nothing = "Nothing is in training." if search is None else "No slot trains this search."
    rows = sorted([*map(_training_row, status.work), *map(_idle_row, idle)])
    return activity_fragment(ReportTable(COLUMNS, [row for _, row in rows]), list(_describe_causes(status)), nothing)


def _of_search(status: DaemonStatus, name: str) -> DaemonStatus:
    """Return the part of a status that concerns one search."""
    return replace(
        status,
        problem=None,
        hosts=(),
        devices=(),
        work=[training for training in status.work if training.search == name],
        holds=[hold for hold in status.holds if hold.search == name],
        held_up=[blocked for blocked in status.held_up if blocked.name == name],
        searches=[row for row in status.searches if row.name == name],
    )


def _describe_causes(status: DaemonStatus) -> Iterator[str]:
    yield from describe_waits(status)
    yield from describe_lost_hosts(status.hosts)
    for row in status.searches:
        if (text := current_status(row, status.supervised)).partition(":")[0] in ("waiting", "paused"):
            yield f"{row.name}: {text}"
    busy = Counter(training.device for training in status.work)
    for device in status.devices:
        if status.supervised and not busy[device.uuid] and (device.waits or device.paused_at is not None):
            memory = describe_memory(device)
            state = describe_state(device, 0, is_supervised=True)
            yield f"{device.host}, {device.name or device.uuid}{f', {memory}' if memory else ''}: {state}"


def _training_row(training: TrainingActivity) -> tuple[tuple[str, int], tuple[str, ...]]:
    speed = training.images_per_second
    return (training.host, training.slot), (
        training.host,
        str(training.slot),
        training.device,
        training.search,
        str(training.candidate_id),
        str(training.attempt),
        f"{training.epochs_done} of {training.epochs}",
        "" if speed is None else f"{speed:,.0f}",
        format_time(training.started_at),
    )


def _idle_row(slot: IdleSlot) -> tuple[tuple[str, int], tuple[str, ...]]:
    return (slot.host, slot.slot), (slot.host, str(slot.slot), slot.device, "idle", "", "", "", "", "")
