"""The options of commands that train: the resources that the trainings may use."""

from __future__ import annotations

from typing import Annotated

import typer

from eatnas_daemon.daemon_options import MAX_LANES, DaemonOptions

Slots = Annotated[
    int | None,
    typer.Option(
        "--slots",
        min=1,
        help="Number of concurrent trainings. Default: the number of physical cores, or as many as fit on the GPUs.",
    ),
]
DeviceNames = Annotated[
    list[str] | None,
    typer.Option(
        "--devices",
        metavar="A,B,…",
        help="Devices to use: indices, UUIDs or `cpu`, separated by commas. Default: all GPUs; if there is none, the "
        "CPU.",
    ),
]
ExcludedDevices = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="A,B,…", help="Devices not to use, in the format of --devices. Default: none."),
]
MaxPerDevice = Annotated[
    int | None,
    typer.Option(
        "--max-per-device", min=1, help="Maximum number of workers on one GPU. Default: as many as fit into its memory."
    ),
]
Lanes = Annotated[
    int | None,
    typer.Option(
        "--lanes",
        min=1,
        max=MAX_LANES,
        help="Number of candidates that one worker process on a GPU trains at the same time. Default: 1.",
    ),
]
AllowedHolders = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="A,B,…",
        help="Users and programs to share GPUs with, separated by commas. `unseen` allows processes that the driver "
        "does not report. Default: none.",
    ),
]
SharingPolicy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="Reaction to another process that starts on a GPU in use: `yield` the GPU, or `stay`. Default: yield.",
    ),
]

WorkerLauncherName = Annotated[
    str | None,
    typer.Option(
        "--launcher",
        metavar="NAME",
        help="Launcher of the workers: `local` for this machine, or `ray` for a Ray cluster. Default: local.",
    ),
]
HeadAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Address of the Ray head. Default: `auto`, the cluster that this machine is in.",
    ),
]
CpusPerWorker = Annotated[
    float | None,
    typer.Option("--cpus-per-worker", help="Number of CPUs that Ray reserves for each worker. Default: 1."),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option("--gpus-per-worker", help="Share of a GPU that Ray reserves for each worker, 0 to 1. Default: 0."),
]


def daemon_options(
    slots: Slots = None,
    devices: DeviceNames = None,
    exclude: ExcludedDevices = None,
    max_per_device: MaxPerDevice = None,
    lanes: Lanes = None,
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
        lanes=lanes,
        allow=tuple(allow or ()),
        policy=policy,
        launcher=launcher,
        address=address,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
    )
