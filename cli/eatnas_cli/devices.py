"""`devices`: what could train here, and per device why it is or is not used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eatnas_cli.printing import Format, print_json, show
from eatnas_cli.record import Written
from eatnas_db.errors import NotFoundError
from eatnas_db.settings import Settings

if TYPE_CHECKING:
    from eatnas_daemon.devices.model import DeviceSnapshot
    from eatnas_daemon.devices.options import DeviceOptions

Devices = Annotated[
    list[str] | None,
    typer.Option("--devices", help="Only these: indices, UUIDs or `cpu`, separated by commas. Default: all GPUs."),
]
Exclude = Annotated[list[str] | None, typer.Option("--exclude", help="Never these; named as in --devices.")]
MaxPerDevice = Annotated[int | None, typer.Option("--max-per-device", min=1, help="Workers on one GPU at most.")]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow", help="Users and programs that may be on a GPU beside us; `unseen`: those that are not shown."
    ),
]
Manners = Annotated[
    str | None,
    typer.Option("--policy", help="When somebody comes to a GPU in use: yield (the default) leaves it, stay does not."),
]
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="A UUID, its beginning, an index, or `cpu`.")]

devices_app = typer.Typer(help="What could train here; which device is left alone.")


@devices_app.callback(invoke_without_command=True)
def devices(
    ctx: typer.Context,
    explain: Annotated[bool, typer.Option("--explain", help="Say in words why each is or is not used.")] = False,
    only: Devices = None,
    exclude: Exclude = None,
    max_per_device: MaxPerDevice = None,
    allow: Allow = None,
    memory: Annotated[float, typer.Option("--memory", min=0, help="GiB that a candidate needs.")] = 0.0,
    format: Written = Format.TABLE,  # noqa: A002
) -> None:
    """What could train here: GPUs and the processor, and whether each is free for one more worker now.

    The options are those of a daemon, to see what they would do.
    """
    if ctx.invoked_subcommand is not None:
        return
    from eatnas_daemon.devices.model import GIB
    from eatnas_daemon.devices.monitor import look_once
    from eatnas_daemon.devices.nvml import Nvml
    from eatnas_daemon.devices.options import wishes_of

    nvml = Nvml()
    seen = look_once(nvml)
    try:
        wishes = wishes_of(
            seen,
            devices=only or (),
            exclude=exclude or (),
            max_per_device=max_per_device,
            allowed=allow or (),
            environment=os.environ,
        )
    except NotFoundError as error:
        raise NotFoundError(_also(error, nvml.trouble)) from None
    daemon, workers = _ours(ctx.obj)
    rows = [_judged(one, wishes, daemon, workers, int(memory * GIB), blind=bool(nvml.trouble)) for one in seen]
    if format is Format.JSON:
        print_json({"nvidia": nvml.trouble or "works", "devices": rows})
    elif format is Format.CSV:
        show(rows, [column for column in rows[0] if column != "processes"], format)
    else:
        if nvml.trouble:
            typer.echo(f"no GPU: {nvml.trouble}")
        _explain(seen, rows) if explain else _tabulate(rows)


@devices_app.command()
def pause(ctx: typer.Context, device: Device) -> None:
    """Leave a device alone: what trains there is checkpointed within seconds and goes on elsewhere, or later."""
    _set_paused(ctx.obj, device, paused=True)


@devices_app.command()
def resume(ctx: typer.Context, device: Device) -> None:
    """Use a device again."""
    _set_paused(ctx.obj, device, paused=False)


def _set_paused(settings: Settings, word: str, *, paused: bool) -> None:
    import time

    from eatnas_cli.record import changing, viewing
    from eatnas_db import hosts

    now = time.time()
    with viewing(settings) as connection:
        known = hosts.list_uuids(connection)
    uuid = hosts.processor_of(settings.host) if word == "cpu" else word
    found = [one for one in known if one == uuid] or [one for one in known if one.startswith(uuid)]
    # The driver is asked before the record is held, which a hanging one would hold for as long.
    local = None if len(found) == 1 else _local(word, settings)
    with changing(settings) as connection:
        if local is not None:
            host_id = hosts.register_host(connection, settings.host, now)
            hosts.register_device(connection, host_id, *local)
            found = [local[0]]
        changed = hosts.set_paused(connection, found[0], now if paused else None)
    state = "paused" if paused else "in use again" if changed else "not paused"
    typer.echo(f"{found[0]} is {state}{' already' if paused and not changed else ''}")


def _local(word: str, settings: Settings) -> tuple[str, str, str]:
    """A device of this machine: UUID, kind and name. Raises `NotFoundError`."""
    from eatnas_daemon.devices.model import CPU
    from eatnas_daemon.devices.monitor import look_once
    from eatnas_daemon.devices.nvml import Nvml
    from eatnas_daemon.devices.options import named
    from eatnas_db import hosts

    nvml = Nvml()
    seen = look_once(nvml)
    try:
        uuid = named(word, seen, "DEVICE")
    except NotFoundError as error:
        raise NotFoundError(_also(error, nvml.trouble)) from None
    (one,) = (device for device in seen if device.uuid == uuid)
    return hosts.processor_of(settings.host) if one.kind == CPU else one.uuid, one.kind, one.name


def _also(error: NotFoundError, trouble: str | None) -> str:
    """The same, and why no GPU is known, if that is so."""
    return f"{error}; no GPU: {trouble}" if trouble else str(error)


def _judged(
    one: DeviceSnapshot, wishes: DeviceOptions, daemon: int | None, workers: list[int], needs: int, *, blind: bool
) -> dict[str, Any]:
    """A device and the verdict on it. `blind`: NVML does not say who is where."""
    from eatnas_daemon.devices.availability import judge
    from eatnas_daemon.devices.capacity import cpu_slots
    from eatnas_daemon.devices.model import CPU

    # What this home's daemon holds is not somebody else's.
    device = replace(one, locked_by=None) if one.locked_by and one.locked_by.pid == daemon else one
    held = [holder.pid for holder in device.holders if holder.pid in workers]
    own = workers if device.kind == CPU and blind else held
    verdict = judge(device, wishes, own, needs)
    return {
        "device": CPU if device.kind == CPU else str(device.index),
        "name": device.name,
        "uuid": device.uuid,
        "free": verdict.free,
        "own": len(own),
        "total_bytes": device.total_bytes,
        "free_bytes": device.free_bytes,
        "busy_percent": device.utilisation,
        "cores": device.cores or None,
        "load": round(device.load, 2) if device.cores else None,
        "slots": cpu_slots(device, len(own), needs) if device.kind == CPU else None,
        "processes": [str(holder) for holder in device.holders],
        "cause": verdict.cause,
        "why": verdict.reason,
    }


def _tabulate(rows: Sequence[dict[str, Any]]) -> None:
    from eatnas_daemon.devices.model import GIB, in_gib

    for row in rows:
        row["memory_free"] = f"{row['free_bytes'] / GIB:.1f} of {in_gib(row['total_bytes'])}"
        percent = "" if row["busy_percent"] is None else f"{row['busy_percent']}%"
        row["busy"] = f"load {row['load']:.1f}" if row["cores"] else percent
    show(rows, ("device", "name", "uuid", "free", "memory_free", "busy", "cores", "slots"))


def _explain(seen: Sequence[DeviceSnapshot], rows: Sequence[dict[str, Any]]) -> None:
    for device, row in zip(seen, rows, strict=True):
        state = "free" if row["free"] else "not used"
        if row["own"]:
            state = "in use by our workers, room for more" if row["free"] else "in use by our workers, no more now"
        slots = "" if row["slots"] is None else f"; slots: {row['slots']}"
        typer.echo(f"{device.label}: {state}: {row['why']}{slots}")


def _ours(settings: Settings) -> tuple[int | None, list[int]]:
    """The pid of this home's daemon, and those of its workers."""
    import psutil

    from eatnas_daemon import lock
    from eatnas_daemon.devices.probe import who_is

    daemon = lock.holder_of(settings.lock_file)
    if daemon is None:
        return None, []
    try:
        started = [process.pid for process in psutil.Process(daemon).children(recursive=True)]
    except psutil.Error:
        return daemon, []
    return daemon, [pid for pid in started if (identity := who_is(pid)) is not None and identity.polite]
