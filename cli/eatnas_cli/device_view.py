"""`daemon status --watch`: every device of every host, and what trains on it now."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from eatnas_cli.printing import show, table_of
from eatnas_cli.record import viewing
from eatnas_db.settings import Settings
from eatnas_report.formats import span, time_in_words

if TYPE_CHECKING:
    from rich.console import Group
    from sqlalchemy import Connection

    from eatnas_db.queries.activity import RecordedDevice

REFRESH_SECONDS: Final = 1.0
WIDE_ENOUGH: Final = 100
"""Columns of a terminal that has room for all that is known of a device."""
COLUMNS: Final = (
    *("host", "device", "name", "memory", "slot", "candidate", "search", "epochs", "images_per_second"),
    *("since_at", "state"),
)


def device_in_words(row: RecordedDevice, trainings: int, worked_on: bool) -> dict[str, Any]:
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
            live.update(draw(_look(settings), time.time(), live.console.width), refresh=True)
            time.sleep(REFRESH_SECONDS)


def draw(rows: Sequence[dict[str, Any]], now: float, width: int) -> Group:
    """What trains as a table that fits a terminal, and under it a line for each state in which other devices are."""
    from rich.console import Group
    from rich.text import Text

    named = _names([row["device"] for row in rows])
    several = len({row["host"] for row in rows}) > 1
    at_work = [
        {
            **row,
            "device": named[row["device"]],
            "name": row["name"].removeprefix("NVIDIA "),
            "used GiB": row["memory"].removesuffix(" GiB").replace(" of ", "/"),
            "images/s": row["images_per_second"],
            "since": span(max(0.0, now - row["since_at"])),
        }
        for row in rows
        if row["slot"] is not None
    ]
    idle: dict[str, list[str]] = {}
    for row in rows:
        if row["slot"] is None:
            where = f"{row['host']} {named[row['device']]}" if several else named[row["device"]]
            idle.setdefault(row["state"], []).append(where)
    columns = ["host", "device", "name", "used GiB", "slot", "candidate", "search", "epochs", "images/s", "since"]
    if not several:
        columns.remove("host")
    if width < WIDE_ENOUGH:
        columns.remove("name")
        if len({row["search"] for row in at_work}) == 1:
            columns.remove("search")
    told = [f"{', '.join(devices)}: {state}" for state, devices in idle.items()]
    if not at_work:
        told.insert(0, "nothing is in training")
        return Group(*map(Text, told))
    return Group(table_of(at_work, columns), *map(Text, told))


def _names(uuids: Sequence[str]) -> dict[str, str]:
    """Beginnings of UUIDs, where each is one device's alone; `devices pause` takes them too."""
    short = {uuid: "-".join(uuid.split("-")[:2]) for uuid in uuids}
    alone = len(set(short.values())) == len(short)
    return {uuid: short[uuid] if alone and not uuid.startswith("cpu") else uuid for uuid in uuids}


def _look(settings: Settings) -> list[dict[str, Any]]:
    with viewing(settings) as connection:
        return _rows(settings, connection)


def _rows(settings: Settings, connection: Connection) -> list[dict[str, Any]]:
    """A row for each training, and one for each device without any."""
    from eatnas_daemon.search_progress import is_supervised
    from eatnas_db.queries.activity import list_devices, list_training_activity

    worked_on = is_supervised(settings, connection)
    work = list_training_activity(connection) if worked_on else ()
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
