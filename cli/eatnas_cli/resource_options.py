"""The options of commands that train: the resources of the machine that they may use."""

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

WorkerLauncherName = Annotated[
    str | None,
    typer.Option("--launcher", help="Where workers run: `local` (default), or `ray`, on the nodes of a Ray cluster."),
]
HeadAddress = Annotated[
    str | None,
    typer.Option("--address", help="HOST:PORT of the Ray head. Default: `auto`, the cluster of this machine."),
]
CpusPerWorker = Annotated[
    float | None, typer.Option("--cpus-per-worker", help="CPUs that Ray reserves for each worker. Default: 1.")
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option("--gpus-per-worker", help="Part of a GPU that Ray reserves for each worker, up to 1. Default: 0."),
]


def daemon_options(
    slots: Slots = None,
    devices: DeviceNames = None,
    exclude: ExcludedDevices = None,
    max_per_device: MaxPerDevice = None,
    allow: AllowedHolders = None,
    policy: SharingPolicy = None,
    launcher: WorkerLauncherName = None,
    address: HeadAddress = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
) -> DaemonOptions:
    """Return the resources that a daemon may use. Raises `ConflictError` for an invalid value."""
    return DaemonOptions(
        slots=slots,
        devices=tuple(devices or ()),
        exclude=tuple(exclude or ()),
        max_per_device=max_per_device,
        allow=tuple(allow or ()),
        policy=policy,
        launcher=launcher,
        address=address,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
    )
