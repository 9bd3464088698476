"""`daemon status --watch`: a table of the devices of all hosts and of the trainings on them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection

from eatnas_cli.device_texts import describe_memory, describe_state
from eatnas_cli.printing import show
from eatnas_cli.tables import lay_out
from eatnas_daemon.search_status import is_supervised
from eatnas_db.database.engine import read_connection
from eatnas_db.garbage_collection import collect_as_usual
from eatnas_db.queries.hosts import RecordedDevice, list_devices
from eatnas_db.queries.training_activity import TrainingActivity, list_training_activity
from eatnas_db.settings import Settings
from eatnas_report.formats import format_duration

if TYPE_CHECKING:
    from rich.console import Group

REFRESH_SECONDS: Final = 1.0
WIDE_COLUMNS: Final = 100
"""The smallest terminal width, in characters, at which the table has every column."""


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A training on a device, or a device without trainings."""

    host: str
    device: str
    """The UUID."""
    name: str
    memory: str
    slot: int | None = None
    candidate: int | None = None
    search: str | None = None
    epochs: str | None = None
    images_per_second: int | None = None
    since_at: float | None = None
    """The Unix time at which the attempt started."""
    state: str = "training"


COLUMNS: Final = tuple(field.name for field in fields(DeviceRow))


def watch_devices(settings: Settings) -> None:
    """Redraw the table every second until Ctrl-C. If the output is not a terminal, print the table once."""
    if not sys.stdout.isatty():
        show(_read_rows(settings), COLUMNS)
        return
    from rich.live import Live

    collect_as_usual()
    with Live(auto_refresh=False, screen=False) as live:
        while True:
            live.update(draw(_read_rows(settings), time.time(), live.console.width), refresh=True)
            time.sleep(REFRESH_SECONDS)


def draw(rows: Sequence[DeviceRow], now: float, width: int) -> Group:
    """Draw the trainings as a table of at most `width` columns, and then a line for each state of the other devices."""
    from rich.console import Group
    from rich.text import Text

    names = _short_names([row.device for row in rows])
    has_several_hosts = len({row.host for row in rows}) > 1
    training = [row for row in rows if row.slot is not None]
    idle: dict[str, list[str]] = {}
    for row in rows:
        if row.slot is None:
            name = names[row.device]
            idle.setdefault(row.state, []).append(f"{row.host} {name}" if has_several_hosts else name)
    lines = [Text(f"{', '.join(devices)}: {state}") for state, devices in idle.items()]
    if not training:
        return Group(Text("nothing is in training"), *lines)
    columns = ["host", "device", "name", "used GiB", "slot", "candidate", "search", "epochs", "images/s", "since"]
    if not has_several_hosts:
        columns.remove("host")
    if width < WIDE_COLUMNS:
        columns.remove("name")
        if len({row.search for row in training}) == 1:
            columns.remove("search")
    records = [
        {
            **asdict(row),
            "device": names[row.device],
            "name": row.name.removeprefix("NVIDIA "),
            "used GiB": row.memory.removesuffix(" GiB").replace(" of ", "/"),
            "images/s": row.images_per_second,
            "since": "" if row.since_at is None else format_duration(max(0.0, now - row.since_at)),
        }
        for row in training
    ]
    table = Text("\n".join(lay_out(records, columns, width).lines), no_wrap=True)
    return Group(table, *lines)


def _short_names(uuids: Sequence[str]) -> dict[str, str]:
    """Map each UUID to its beginning if all beginnings differ, and otherwise to the whole UUID.

    `devices pause` accepts both forms.
    """
    short = {uuid: "-".join(uuid.split("-")[:2]) for uuid in uuids}
    are_unique = len(set(short.values())) == len(short)
    return {uuid: short[uuid] if are_unique and not uuid.startswith("cpu") else uuid for uuid in uuids}


def _read_rows(settings: Settings) -> list[DeviceRow]:
    with read_connection(settings.database_url) as connection:
        return _list_rows(settings, connection)


def _list_rows(settings: Settings, connection: Connection) -> list[DeviceRow]:
    """Return a row for each training, and a row for each device without trainings."""
    supervised = is_supervised(settings, connection)
    activity = list_training_activity(connection) if supervised else ()
    rows: list[DeviceRow] = []
    for device in list_devices(connection):
        trainings = [training for training in activity if training.device == device.uuid]
        rows += [_training_row(device, training) for training in trainings] or [
            DeviceRow(
                host=device.host,
                device=device.uuid,
                name=device.name,
                memory=describe_memory(device),
                state=describe_state(device, 0, is_supervised=supervised),
            )
        ]
    return rows


def _training_row(device: RecordedDevice, training: TrainingActivity) -> DeviceRow:
    speed = training.images_per_second
    return DeviceRow(
        host=device.host,
        device=device.uuid,
        name=device.name,
        memory=describe_memory(device),
        slot=training.slot,
        candidate=training.candidate_id,
        search=training.search,
        epochs=f"{training.epochs_done}/{training.epochs}",
        images_per_second=None if speed is None else round(speed),
        since_at=training.started_at,
    )
