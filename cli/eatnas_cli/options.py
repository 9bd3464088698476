"""The options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eatnas_cli.printing import Format
from eatnas_daemon.daemon_options import DaemonOptions

SearchName = Annotated[str, typer.Argument(metavar="NAME", help="Name of a search.")]
CandidateId = Annotated[int, typer.Argument(help="Number of a candidate, as `query best` lists it.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to write the answer.")]

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC.yaml")]
SpecChanges = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")]
PlannedSlots = Annotated[
    int | None,
    typer.Option("--slots", min=1, help="Slots it will run on, which settles the lag; default: this machine's."),
]

PlotFile = Annotated[
    Path | None, typer.Option("--picture", metavar="FILE.png", help="Draw it; .svg and .pdf do as well.")
]
BlockNumber = Annotated[int | None, typer.Option("--block", min=1, help="In this block alone.")]

Slots = Annotated[
    int | None,
    typer.Option(
        "--slots", min=1, help="Candidates trained at a time; default: physical cores, or as many as fit on the GPUs."
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
