"""`devices`: list, pause and resume devices, and explain their availability."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import FITTING, Format, Layout, print_json, show
from eatnas_cli.resource_options import AllowedHolders, DeviceNames, ExcludedDevices, MaxPerDevice
from eatnas_cli.sentences import print_sentence
from eatnas_daemon.devices import pausing
from eatnas_daemon.devices.inventory import InventoryEntry, take_inventory
from eatnas_db.database.engine import read_connection, write_record
from eatnas_db.settings import Settings
from eatnas_report.formats import GIB, format_gib

Device = Annotated[str, typer.Argument(metavar="DEVICE", help="UUID, beginning of a UUID, index, or `cpu`.")]

COLUMNS: Final = ("device", "name", "uuid", "free", "memory_free", "busy", "cores", "slots")

app = new_app()


@app.callback(invoke_without_command=True)
@takes_options(layout=layout_options)
def devices(
    ctx: typer.Context,
    explain: Annotated[bool, typer.Option("--explain", help="Explain why each device is or is not used.")] = False,
    only: DeviceNames = None,
    exclude: ExcludedDevices = None,
    max_per_device: MaxPerDevice = None,
    allow: AllowedHolders = None,
    memory: Annotated[
        float, typer.Option("--memory", min=0, help="Memory in GiB that must be free for a candidate.")
    ] = 0.0,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """List the GPUs and the CPU, and whether each is free for one more worker now.

    The command accepts the device options of `daemon start` and shows their effect.
    """
    if ctx.invoked_subcommand is not None:
        return
    inventory = take_inventory(
        ctx.obj.lock_file,
        devices=only or (),
        exclude=exclude or (),
        max_per_device=max_per_device,
        allowed=allow or (),
        environment=os.environ,
        needed_bytes=int(memory * GIB),
    )
    rows = [_row(entry) for entry in inventory.entries]
    if format is Format.JSON:
        print_json({"nvidia": inventory.driver_error or "works", "devices": rows})
    elif format is Format.CSV:
        show(rows, [column for column in rows[0] if column != "processes"], format, layout=layout)
    else:
        if inventory.driver_error:
            print_sentence(f"no GPU: {inventory.driver_error}")
        if explain:
            _print_explanations(inventory.entries)
        else:
            show([_with_units(row) for row in rows], COLUMNS, layout=layout)


@app.command()
def pause(ctx: typer.Context, device: Device) -> None:
    """Stop using a device. Its trainings write a checkpoint within seconds and continue on another device, or later."""
    _set_paused(ctx.obj, device, paused=True)


@app.command()
def resume(ctx: typer.Context, device: Device) -> None:
    """Use a paused device again."""
    _set_paused(ctx.obj, device, paused=False)


def _set_paused(settings: Settings, word: str, *, paused: bool) -> None:
    with read_connection(settings.database_url) as connection:
        uuid = pausing.find_recorded_uuid(connection, word, settings.host)
    # Probe the driver between the transactions, so that a hanging driver does not block the database.
    local = None
    if uuid is None:
        local = pausing.find_local_device(word, settings.host)
        uuid = local.uuid
    changed = write_record(
        settings.database_url,
        lambda connection: pausing.set_paused(connection, uuid, local, settings.host, paused=paused, now=time.time()),
    )
    state = "paused" if paused else "in use again" if changed else "not paused"
    print_sentence(f"{uuid} is {'already ' if paused and not changed else ''}{state}")


def _row(entry: InventoryEntry) -> dict[str, Any]:
    device = entry.device
    return {
        "device": device.kind if device.index is None else str(device.index),
        "name": device.name,
        "uuid": device.uuid,
        "free": entry.availability.free,
        "own": entry.workers,
        "total_bytes": device.total_bytes,
        "free_bytes": device.free_bytes,
        "busy_percent": device.utilisation_percent,
        "cores": device.cores or None,
        "load": round(device.load_average, 2) if device.cores else None,
        "slots": entry.cpu_slots,
        "processes": [str(process) for process in device.processes],
        "cause": entry.availability.cause,
        "why": entry.availability.reason,
    }


def _with_units(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the JSON output, extended by the formatted values that the table shows."""
    percent = "" if row["busy_percent"] is None else f"{row['busy_percent']}%"
    return {
        **row,
        "memory_free": f"{row['free_bytes'] / GIB:.1f} of {format_gib(row['total_bytes'])}",
        "busy": f"load {row['load']:.1f}" if row["cores"] else percent,
    }


def _print_explanations(entries: Sequence[InventoryEntry]) -> None:
    for entry in entries:
        free = entry.availability.free
        state = "free" if free else "not used"
        if entry.workers:
            room = "room for more" if free else "no room for more"
            state = f"in use by {entry.workers} of our workers, {room}"
        slots = "" if entry.cpu_slots is None else f"; slots: {entry.cpu_slots}"
        print_sentence(f"{entry.device.label}: {state}: {entry.availability.reason}{slots}")
