"""`daemon status --watch`: every device of every host, and what trains on it now."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from eatnas_cli.printing import show, table_of, time_in_words
from eatnas_cli.record import viewing
from eatnas_db.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from eatnas_db.queries.work import Device

REFRESH_SECONDS: Final = 1.0
COLUMNS: Final = (
    *("host", "device", "name", "memory", "slot", "candidate", "search", "epochs", "images_per_second"),
    *("since_at", "state"),
)


def device_in_words(row: Device, trainings: int, worked_on: bool) -> dict[str, Any]:
    """A device's memory, and what it does or why it is not used."""
    memory = ""
    if row.used_bytes is not None and row.total_bytes:
        memory = f"{row.used_bytes / 2**30:.1f} of {row.total_bytes / 2**30:.1f} GiB"
    if trainings:
        state = f"{trainings} in training"
    elif row.paused_at is not None:
        state = f"paused by hand since {time_in_words(row.paused_at)}"
    elif not worked_on:
        state = "no daemon is running"
    else:
        state = f"waits: {row.waits}" if row.waits else "free"
    return {"memory": memory, "state": state}


def watch_devices(settings: Settings) -> None:
    """Show the table anew every second on a terminal, until Ctrl-C; once where there is none."""
    if not sys.stdout.isatty():
        show(_look(settings), COLUMNS)
        return
    from rich.live import Live

    with Live(auto_refresh=False, screen=False) as live:
        while True:
            live.update(table_of(_look(settings), COLUMNS), refresh=True)
            time.sleep(REFRESH_SECONDS)


def _look(settings: Settings) -> list[dict[str, Any]]:
    with viewing(settings) as connection:
        return _rows(settings, connection)


def _rows(settings: Settings, connection: Connection) -> list[dict[str, Any]]:
    """A row for each training, and one for each device without any."""
    from eatnas_cli.searches import is_worked_on
    from eatnas_db.queries.work import list_devices, list_work

    worked_on = is_worked_on(settings, connection)
    work = list_work(connection) if worked_on else ()
    rows: list[dict[str, Any]] = []
    for device in list_devices(connection):
        trainings = [one for one in work if one.device == device.uuid]
        words = device_in_words(device, len(trainings), worked_on)
        facts = {**dict.fromkeys(COLUMNS), **asdict(device), **words, "device": device.uuid}
        rows += [
            {
                **facts,
                "slot": one.slot,
                "candidate": one.candidate_id,
                "search": one.search,
                "epochs": f"{one.epochs_done}/{one.epochs}",
                "images_per_second": one.images_per_second and round(one.images_per_second),
                "since_at": one.started_at,
                "state": "training",
            }
            for one in trainings
        ] or [facts]
    return rows
