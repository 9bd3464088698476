"""The options of commands that train: which resources of the machine they may use."""

from __future__ import annotations

from typing import Annotated

import typer

from eatnas_daemon.daemon_options import DaemonOptions

Slots = Annotated[
    int | None,
    typer.Option(
        "--slots",
        min=1,
        help="Number of concurrent trainings. Default: the physical cores, or as many as fit on the GPUs.",
    ),
]
DeviceNames = Annotated[
    list[str] | None,
    typer.Option("--devices", help="Use these alone: indices, UUIDs or `cpu`, comma-separated. Default: all GPUs."),
]
ExcludedDevices = Annotated[
    list[str] | None, typer.Option("--exclude", help="Never use these; same format as --devices.")
]
MaxPerDevice = Annotated[int | None, typer.Option("--max-per-device", min=1, help="Maximum number of workers per GPU.")]
AllowedHolders = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        help="Share GPUs with these users and programs; `unseen`: with processes that the driver does not report.",
    ),
]
SharingPolicy = Annotated[
    str | None,
    typer.Option("--policy", help="When another process starts on a GPU in use: `yield` it (default) or `stay`."),
]


def daemon_options(
    slots: Slots = None,
    devices: DeviceNames = None,
    exclude: ExcludedDevices = None,
    max_per_device: MaxPerDevice = None,
    allow: AllowedHolders = None,
    policy: SharingPolicy = None,
) -> DaemonOptions:
    """Return which resources of the machine a daemon may use. Raises `ConflictError` for an unknown policy."""
    return DaemonOptions(
        slots=slots,
        devices=tuple(devices or ()),
        exclude=tuple(exclude or ()),
        max_per_device=max_per_device,
        allow=tuple(allow or ()),
        policy=policy,
    )
