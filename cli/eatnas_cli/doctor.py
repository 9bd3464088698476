"""`doctor`: check whether searches can run on this machine, and advise on problems."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import typer
from packaging.requirements import Requirement

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import FITTING, Format, Layout, show
from eatnas_daemon.daemon_lock import find_record_user
from eatnas_daemon.data_sets import describe_data_set, locate_search_data
from eatnas_daemon.devices.capacity import find_free_device
from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_daemon.devices.monitor import probe_once
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.placement import torch_device_name, worker_environment
from eatnas_daemon.mlflow.problems import read_problem
from eatnas_daemon.ray_cluster.versions import find_address, require_ray
from eatnas_daemon.training_programs import run_training_program
from eatnas_db.database.engine import open_record, read_connection
from eatnas_db.distributions import WHOLE, installed_versions
from eatnas_db.domain.states import DesiredState
from eatnas_db.errors import DamagedRecordError, DataError, EatnasError, RecordError
from eatnas_db.home_config import read_hooks, read_max_bytes, read_worker_settings
from eatnas_db.queries.disk_usage import measure_disk_usage, select_for_removal
from eatnas_db.queries.holds import RecordedHold, list_holds
from eatnas_db.queries.searches import list_searches
from eatnas_db.settings import Settings, is_mlflow_on
from eatnas_db.urls import hide_passwords, parse_url, require_parsable_url
from eatnas_db.worker_settings import LOCAL, RAY
from eatnas_report.formats import format_size, format_time

app = new_app()

ENOUGH_BYTES: Final = 1_000_000_000
MLFLOW_SECONDS: Final = 3.0
TORCH_SECONDS: Final = 120.0
"""The time limit for the test of torch. Loading torch and the driver's libraries from a slow disk can take a minute."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `advice` is empty if there is nothing to do."""

    what: str
    ok: bool
    found: str
    advice: str = ""


@app.command()
@takes_options(layout=layout_options)
def doctor(
    ctx: typer.Context,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Check whether searches can run on this machine and advise on problems; exit with status 1 if a check fails."""
    rows = list(_examine(ctx.obj, os.environ))
    columns = ["what", "ok", "found"]
    if format is not Format.TABLE or any(row.advice for row in rows):
        columns.append("advice")
    show(rows, columns, format, layout=layout)
    if not all(row.ok for row in rows):
        raise typer.Exit(1)


def _examine(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    yield from _platform()
    yield from _versions()
    yield from _devices()
    yield _home(settings)
    record = _record(settings)
    yield record
    yield _daemon(settings)
    if settings.home.exists():
        yield _disk(settings.home)
        yield from _storage(settings, environment)
    yield _mlflow(settings, environment)
    if (problem := read_problem(settings)) is not None:
        # The check passes, because searches run without MLflow.
        found, _, advice = problem.message.partition("; ")
        found = f"since {format_time(problem.since_at)}: {found}"
        yield Finding("MLflow runs", True, found, advice)
    yield _hooks(settings)
    yield _launcher(settings, environment)
    yield from _data(settings, searches=record.ok)


def _platform() -> Iterator[Finding]:
    name = platform.system()
    advice = "" if name in ("Linux", "Darwin") else "use Linux, macOS, or WSL2 on Windows"
    yield Finding("system", not advice, f"{name} {platform.release()}, {platform.machine()}", advice)
    old = sys.version_info < (3, 11)
    advice = "install Python 3.11 or newer and create a new environment with it" if old else ""
    yield Finding("python", not old, platform.python_version(), advice)


def _versions() -> Iterator[Finding]:
    """Check the package and the versions of its dependencies."""
    installed = installed_versions()
    if not installed:
        yield Finding(WHOLE, False, "not installed", "run `pip install .` in its source folder")
    for name, number in installed.items():
        yield Finding(name, True, number)
        yield from _dependencies(name)


def _dependencies(distribution: str) -> Iterator[Finding]:
    for line in requires(distribution) or ():
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            yield Finding(needed.name, False, f"not installed; needed: {needed.specifier}", f"pip install '{line}'")
            continue
        if not needed.specifier.contains(found, prereleases=True):
            yield Finding(needed.name, False, f"{found}; needed: {needed.specifier}", f"pip install --upgrade '{line}'")
        elif needed.name in ("torch", "torchvision", "mlflow", "sqlalchemy"):
            # Show these dependencies even if they have no problem.
            yield Finding(needed.name, True, found)


def _devices() -> Iterator[Finding]:
    nvml = Nvml()
    devices = probe_once(nvml)
    *gpus, cpu = devices
    yield Finding("processor cores", True, str(cpu.cores))
    if not gpus:
        yield Finding("GPUs", True, f"none: {nvml.error or 'no NVIDIA GPU'}; searches train on the CPU")
        return
    names = "; ".join(f"{gpu.index}: {gpu.name}" for gpu in gpus)
    yield Finding("GPUs", True, names, "`eatnas-db devices --explain` shows which are free")
    yield _torch(find_free_device(devices, os.environ))


def _torch(device: DeviceSnapshot) -> Finding:
    """Check whether torch can compute on a device. NVIDIA's library also lists GPUs that torch does not support."""
    if device.kind == CPU:
        why = "`eatnas-db devices --explain` shows the reason"
        return Finding("torch on GPUs", True, "not tested: no GPU is available now", why)
    try:
        found = run_training_program(
            "eatnas_training.selftest",
            torch_device_name(device),
            request={},
            environment=worker_environment(device),
            timeout=TORCH_SECONDS,
        )
    except DataError as error:
        return Finding("torch on GPUs", False, str(error))
    if found["trouble"] is None:
        return Finding("torch on GPUs", True, f"{found['torch']} computes on {device.label}")
    problem, _, advice = found["trouble"].partition("; ")
    return Finding("torch on GPUs", False, problem, advice)


def _home(settings: Settings) -> Finding:
    home = settings.home
    if not home.exists():
        return Finding("home", True, f"{home} does not exist yet", "`eatnas-db init` creates it")
    if not home.is_dir():
        return Finding("home", False, f"{home} is not a folder", "choose another one with --home or EATNAS_HOME")
    closed = [
        folder
        for folder in (home, settings.logs, settings.artifacts, settings.data)
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK)
    ]
    if closed:
        return Finding("home", False, f"{closed[0]} is not writable", f"run chown or chmod u+rwx {closed[0]}")
    return Finding("home", True, str(home))


def _record(settings: Settings) -> Finding:
    try:
        with read_connection(settings.database_url):
            return Finding("record", True, settings.printable_url)
    except RecordError as error:
        return _report_error("record", error)


def _report_error(what: str, error: EatnasError) -> Finding:
    """Return a finding from an error message, in which advice follows the last semicolon."""
    found, _, advice = str(error).rpartition("; ")
    return Finding(what, False, found or advice, advice if found else "")


def _daemon(settings: Settings) -> Finding:
    user = find_record_user(settings.lock_file)
    if user is None:
        return Finding("daemon", True, "not running", "`eatnas-db daemon start` starts it")
    return Finding("daemon", True, f"running, {user.process}" if user.is_daemon else f"{user} uses the record")


def _disk(home: Path) -> Finding:
    free = shutil.disk_usage(home).free
    enough = free > ENOUGH_BYTES
    advice = (
        ""
        if enough
        else f"free some disk space: training stops when the disk is full; {format_size(ENOUGH_BYTES)} should be free"
    )
    return Finding("free disk", enough, f"{format_size(free)} in {home}", advice)


def _storage(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    try:
        engine = open_record(settings.database_url)
    except RecordError:
        return
    usage = measure_disk_usage(engine, settings)
    engine.dispose()
    if settings.database_file is not None:
        found = f"{format_size(usage.database)}, write-ahead log {format_size(usage.write_ahead_log)}"
        yield Finding("database", True, found)
    of_searches = (f"{name} {format_size(size)}" for name, size in usage.checkpoints.items())
    yield Finding("checkpoints", True, ", ".join(of_searches) or "none")
    yield Finding("logs", True, format_size(usage.logs))
    yield Finding("MLflow store", True, format_size(usage.mlflow))
    yield Finding("image cache", True, format_size(usage.cache))
    try:
        limit = read_max_bytes(settings.home, environment)
    except EatnasError as error:
        yield Finding("storage", False, str(error), "correct this value; until then the daemon does not start")
        return
    taken = f"{format_size(usage.bytes)}, including {format_size(usage.other)} of other files"
    if limit is None:
        yield Finding("storage", True, f"{taken}; no limit")
        return
    going = sum(file.bytes for file in select_for_removal(usage, limit))
    left = usage.bytes - going - limit
    found, advice = f"{taken}; the limit is {format_size(limit)}", ""
    if left > 0:
        found += f"; the files that the daemon must keep exceed the limit by {format_size(left)}"
        advice = "raise the limit (EATNAS_MAX_BYTES, storage.max_bytes) or remove other files"
    elif going:
        found += f"; the daemon will remove {format_size(going)}"
    yield Finding("storage", left <= 0, found, advice)


def _mlflow(settings: Settings, environment: Mapping[str, str]) -> Finding:
    try:
        if not is_mlflow_on(environment):
            return Finding("MLflow", True, "off; `eatnas-db mlflow sync` writes the missing runs")
    except RecordError as error:
        return _report_error("MLflow", error)
    uri = settings.tracking_uri(environment)
    if uri == settings.mlflow_uri:
        return Finding("MLflow", True, f"the store of the home, {settings.mlflow_uri}")
    try:
        if "://" in uri:
            require_parsable_url(uri, "MLFLOW_TRACKING_URI")
    except RecordError as error:
        return _report_error("MLflow", error)
    parts = parse_url(uri)
    if parts is None or parts.scheme not in ("http", "https"):
        return Finding("MLflow", True, f"MLFLOW_TRACKING_URI, {hide_passwords(uri)}")
    # Show the address without the user name and the password. Do not parse them, because the password may contain a
    # slash.
    address = urlsplit(f"{parts.scheme}://{parts.host}")
    shown = address.geturl()
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), MLFLOW_SECONDS).close()
    except OSError as error:
        # The check passes, because searches run without MLflow.
        advice = "start the server or correct MLFLOW_TRACKING_URI; until then, searches run and are written to it later"
        return Finding("MLflow", True, f"{shown} does not answer: {error.strerror or error}", advice)
    return Finding("MLflow", True, f"{shown} answers")


def _launcher(settings: Settings, environment: Mapping[str, str]) -> Finding:
    """Describe where workers run if the daemon gets no options."""
    try:
        workers = read_worker_settings(settings.home, environment)
        if workers.launcher != RAY:
            return Finding("launcher", True, LOCAL)
        require_ray()
        return Finding("launcher", True, f"{RAY}, {workers.address or find_address(environment)}")
    except EatnasError as error:
        return _report_error("launcher", error)


def _hooks(settings: Settings) -> Finding:
    try:
        hooks = read_hooks(settings.home)
    except EatnasError as error:
        return _report_error("hooks", error)
    if hooks is None:
        return Finding("hooks", True, "none")
    # The daemon starts the command in the home, without a shell.
    program = hooks.on_event[0]
    path = shutil.which(settings.home / program if "/" in program else program)
    if path is None:
        advice = f"install it and make it executable, or correct hooks.on_event in {settings.home / 'config.yaml'}"
        return Finding("hooks", False, f"program {program!r} not found", advice)
    return Finding("hooks", True, f"{path} runs on {', '.join(hooks.events)}")


def _data(settings: Settings, *, searches: bool) -> Iterator[Finding]:
    """Check the data set `digits`, which needs no files, and the data sets of all unfinished searches."""
    wanted = {"digits": {"name": "digits", "root": str(settings.data)}}
    holds: Sequence[RecordedHold] = ()
    if searches:
        with read_connection(settings.database_url) as connection:
            holds = list_holds(connection)
            going = [
                row
                for row in list_searches(connection)
                if row.finished_at is None and row.wish != DesiredState.CANCELLED
            ]
        for row in going:
            try:
                data = locate_search_data(settings, row)
            except DamagedRecordError as error:
                yield _report_error(f"search {row.name}", error)
                continue
            if data not in wanted.values():
                wanted[f"{data['name']} of {row.name}" if data["name"] in wanted else data["name"]] = data
    for name, data in wanted.items():
        try:
            description = describe_data_set(data)
        except EatnasError as error:
            advice = f"`eatnas-db data prepare {data['name']}` downloads and verifies it"
            yield Finding(name, False, str(error), advice)
            continue
        images = f"{description.train_images} training images, {description.validation_images} validation images"
        yield Finding(name, True, images)
    for hold in holds:
        found = f"set aside by host {hold.host}: {hold.reason}"
        yield Finding(f"search {hold.search}", False, found, "remove the cause; the host tries again by itself")
