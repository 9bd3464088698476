"""The composition root of the daemon: build a supervisor with all its parts, and run it.

`python -m eatnas_daemon.main` supervises every search of a home. With `--only NAME` it supervises one search until the
search ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy import Engine

from eatnas_daemon.daemon_lock import LinkedRecordError, RecordUser, find_record_user, hold_record
from eatnas_daemon.daemon_options import (
    POLICIES,
    READY_PREFIX,
    DaemonOptions,
    complete_options,
    describe_options,
    save_options,
)
from eatnas_daemon.devices.availability import Cause, check_availability
from eatnas_daemon.devices.capacity import count_usable_gpus
from eatnas_daemon.devices.model import CPU
from eatnas_daemon.devices.monitor import DRIVER_TIMEOUT_SECONDS, DeviceMonitor
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.options import DeviceOptions, parse_options
from eatnas_daemon.devices.probe import probe_cpu, probe_devices
from eatnas_daemon.devices.sharing import SharingPolicy
from eatnas_daemon.event_log import EventLog, open_log
from eatnas_daemon.followers.process import Follower
from eatnas_daemon.gpus.scheduler import GpuScheduler
from eatnas_daemon.gpus.worker_scheduler import NO_GPUS, WorkerScheduler
from eatnas_daemon.ray_cluster.bridge_process import BridgeProcess
from eatnas_daemon.ray_cluster.cluster_scheduler import ClusterScheduler
from eatnas_daemon.ray_cluster.ray_launcher import RayLauncher
from eatnas_daemon.ray_cluster.requests import WorkerNeeds
from eatnas_daemon.ray_cluster.versions import find_address, require_ray
from eatnas_daemon.search_progress import ProgressPrinter, describe_failures
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.lanes import LaneLauncher
from eatnas_daemon.workers.launcher import Launcher, WorkerLauncher
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.distributions import TRAINING, require_module
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.states import DesiredState
from eatnas_db.errors import ConflictError, EatnasError, describe_os_error
from eatnas_db.garbage_collection import collect_as_usual
from eatnas_db.home_config import read_hooks, read_max_bytes, read_worker_settings
from eatnas_db.queries.searches import SearchRecord, get_search, list_open_retrainings
from eatnas_db.settings import Settings, is_mlflow_on, load_settings
from eatnas_db.text_encoding import escape_controls, let_output_escape
from eatnas_db.worker_settings import LAUNCHERS

FINISHED, STOPPED, FAILED, PREEMPTED = 0, 3, 4, 75
"""Exit codes of a search in the foreground."""
WATCH_SECONDS: Final = 0.2
DRIVERLESS_SECONDS: Final = 60.0
"""Seconds between two probes of the devices if the NVIDIA driver is missing or does not work."""
ANSWER_SECONDS: Final = 20.0
"""Seconds to wait for a database server. A lease is longer, because workers get no heartbeats during the wait."""
BUSY_SECONDS: Final = 5.0
"""Seconds to wait for another program's transaction. Meanwhile, the supervisor reads no messages of its workers."""


class ProgressDisplay(Protocol):
    """Shows the progress of a search in the foreground."""

    def refresh(self, *, at_once: bool = False, trouble: str | None = None) -> object:
        """Show the current progress; `trouble` is an error of the supervisor."""


def run_search(settings: Settings, name: str, options: DaemonOptions, display: ProgressDisplay) -> int:
    """Supervise one search until it ends and return the exit code.

    While another daemon is working on the database, only show the progress. Raises `EatnasError`.
    """
    # Before the supervisor handles signals, no training runs, so the process can exit without a checkpoint.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(PREEMPTED))
    collect_as_usual()
    engine = open_record(settings.database_url)
    reported: str | None = None
    while _is_unfinished(engine, name):
        with ExitStack() as held:
            try:
                held.enter_context(hold_record(settings))
            except ConflictError as error:
                user = error if isinstance(error, LinkedRecordError) else find_record_user(settings.lock_file)
                if user is not None and str(user) != reported:
                    print(_describe_other_user(user, options), file=sys.stderr)
                    reported = str(user)
                display.refresh()
                time.sleep(WATCH_SECONDS)
                continue
            supervise(
                settings,
                options,
                only=name,
                on_tick=lambda now: display.refresh(at_once=now.finished, trouble=now.trouble),
            )
        break
    display.refresh(at_once=True)
    with read_transaction(engine) as connection:
        row = get_search(connection, name)
        if row.failed:
            print(f"search {name}: {row.ended}; {describe_failures(connection, row)}", file=sys.stderr)
        elif row.status.startswith("paused:"):
            print(f"search {name} is {row.status}", file=sys.stderr)
    return _exit_code(row)


def run_daemon(settings: Settings, options: DaemonOptions) -> None:
    """Supervise every search of a home until a signal arrives. Raises `EatnasError`."""
    ready = f"{READY_PREFIX}, pid {os.getpid()}; log file {settings.logs / 'daemon.log'}; press Ctrl-C to drain it"
    collect_as_usual()
    with hold_record(settings):
        save_options(settings, options)
        supervise(settings, options, on_ready=lambda: print(ready, flush=True))


def supervise(
    settings: Settings,
    options: DaemonOptions,
    *,
    only: str | None = None,
    on_ready: Callable[[], None] = lambda: None,
    on_tick: Callable[[Supervisor], object] = lambda _: None,
) -> None:
    """Run a supervisor and its followers until a signal arrives, or until the search `only` is finished.

    The caller must hold the lock of the record. Raises `EatnasError`, after logging it.
    """
    require_module(TRAINING)
    engine = open_record(settings.database_url, busy_seconds=BUSY_SECONDS, answer_seconds=ANSWER_SECONDS)
    log = open_log(settings.logs / "daemon.log")
    event_log, followers = EventLog(engine, log), _followers(settings)
    plan = _plan_workers(settings, options)

    def after_tick(supervisor: Supervisor) -> None:
        event_log.update(supervisor)
        for follower in followers:
            follower.restart_if_dead()
        on_tick(supervisor)

    log.info("daemon started (pid %d) with %s%s", os.getpid(), plan, f", for search {only} only" if only else "")
    try:
        supervisor = Supervisor(
            engine,
            settings,
            plan.launcher,
            slots=plan.cpu_slots,
            host_name=settings.host,
            only=only,
            max_bytes=read_max_bytes(settings.home, os.environ),
            gpu_scheduler=plan.gpu_scheduler,
        )
        for follower in followers:
            follower.start()
        on_ready()
        supervisor.run(after_tick)
        event_log.update(supervisor, at_once=True)
    except EatnasError as error:
        log.error("daemon stopped (pid %d): %s", os.getpid(), error)
        raise
    except Exception:
        log.exception("daemon stopped by an error (pid %d)", os.getpid())
        raise
    finally:
        for follower in followers:
            follower.stop()
    log.info("daemon stopped (pid %d)", os.getpid())


@dataclass(frozen=True, slots=True)
class _DevicePlan:
    """The launcher of workers, the number of slots on the CPU, and the scheduler of GPUs."""

    launcher: WorkerLauncher
    cpu_slots: int
    gpus: int = 0
    gpu_scheduler: WorkerScheduler = NO_GPUS
    cluster: str | None = None

    def __str__(self) -> str:
        if self.cluster is not None:
            return self.cluster
        cpu_slots = f"{self.cpu_slots} CPU slot{'' if self.cpu_slots == 1 else 's'}"
        return f"{self.gpus} GPU{'' if self.gpus == 1 else 's'} and {cpu_slots}" if self.gpus else cpu_slots


def _plan_workers(settings: Settings, options: DaemonOptions) -> _DevicePlan:
    """Decide where workers run: as the options say or, without options, as the environment and the home say."""
    options = complete_options(options, read_worker_settings(settings.home, os.environ))
    return _plan_cluster(settings, options) if options.uses_ray else _plan_devices(settings, options)


def _plan_cluster(settings: Settings, options: DaemonOptions) -> _DevicePlan:
    """Decide which workers to request from a Ray cluster.

    Raises `EatnasError` if this machine cannot join a cluster.
    """
    require_ray()
    needs = WorkerNeeds(options.cpus_per_worker or 1.0, options.gpus_per_worker or 0.0)
    address, marker = options.address or find_address(os.environ), settings.home / f"{settings.lock_file.stem}.ray"
    bridge = BridgeProcess(address, needs, settings.home, marker, settings.logs / "ray.log")
    return _DevicePlan(
        RayLauncher(settings.logs, bridge),
        cpu_slots=0,
        gpu_scheduler=ClusterScheduler(bridge, options.slots),
        cluster=f"the Ray cluster at {bridge.address} and {needs} for each worker",
    )


def _plan_devices(settings: Settings, options: DaemonOptions) -> _DevicePlan:
    """Probe the devices. Decide the number of slots on the CPU, and the GPUs to use.

    Raises `EatnasError` if the options name a device that does not exist.
    """
    launcher, nvml = Launcher(settings.logs), Nvml()
    monitor = DeviceMonitor(lambda: probe_devices(nvml), timeout_seconds=DRIVER_TIMEOUT_SECONDS)
    devices = monitor.snapshots()
    if not devices and (options.devices or options.exclude):
        raise ConflictError(f"the NVIDIA driver has not responded for {DRIVER_TIMEOUT_SECONDS:g} s")
    devices = devices or [probe_cpu()]
    device_options = parse_options(
        devices,
        devices=options.devices,
        exclude=options.exclude,
        max_per_device=options.max_per_device,
        allowed=options.allow,
        environment=os.environ,
    )
    on_cpu = any(
        check_availability(device, device_options).cause is not Cause.EXCLUDED
        for device in devices
        if device.kind == CPU
    )
    cores = devices[-1].cores
    cpu_slots = (options.slots or cores) if on_cpu else 0
    if options.uses_lanes and not _may_use_gpus(device_options):
        monitor.close()
        raise ConflictError(f"--lanes {options.lanes} needs a GPU, but this daemon may use the CPU only")
    if device_options.included is not None and device_options.included <= {CPU}:
        monitor.close()
        return _DevicePlan(launcher, cpu_slots)
    if nvml.error is not None:
        monitor.interval_seconds = DRIVERLESS_SECONDS
    gpus, lanes = count_usable_gpus(devices, device_options), options.lanes or 1
    scheduler = GpuScheduler(
        monitor,
        device_options,
        KeyedRng(time.time_ns(), "yield", os.getpid()),
        policy=SharingPolicy(options.policy or SharingPolicy.YIELD),
        max_workers=None if on_cpu else options.slots,
        # Each worker process on a GPU also keeps a core busy. Lanes are workers that share a process.
        workers_per_device=lanes if lanes > 1 else max(1, cores // max(1, gpus)),
    )
    return _DevicePlan(launcher if lanes == 1 else LaneLauncher(launcher, lanes), cpu_slots, gpus, scheduler)


def _may_use_gpus(options: DeviceOptions) -> bool:
    """Return whether a daemon with these options may use any GPU, even if other users occupy all GPUs now."""
    return not options.use_cpu if options.included is None else not options.included <= {CPU}


def _followers(settings: Settings) -> list[Follower]:
    """Return the MLflow follower unless MLflow is off, and the follower of hooks if hooks are configured.

    Raises `EatnasError`.
    """
    environment = {
        "EATNAS_DB_URL": settings.database_url,
        "EATNAS_HOME": str(settings.home),
        "EATNAS_HOST": settings.host,
        "MLFLOW_TRACKING_URI": settings.tracking_uri(os.environ),
    }
    followers = []
    if is_mlflow_on(os.environ):
        followers.append(Follower(("eatnas_daemon.mlflow",), environment, settings.logs / "mlflow.log"))
    if read_hooks(settings.home) is not None:
        program = ("eatnas_daemon.hooks", "--since", str(time.time()))
        followers.append(Follower(program, environment, settings.logs / "hooks.log"))
    return followers


def _describe_other_user(user: RecordUser | LinkedRecordError, options: DaemonOptions) -> str:
    """Describe why this process only shows the progress, and name its options that have no effect."""
    given = describe_options(options)
    unused = f"; {given} has no effect while that process runs" if given else ""
    cause = f"{user} is working on this record" if isinstance(user, RecordUser) else str(user)
    return f"{cause}; watching the search{unused}"


def _is_unfinished(engine: Engine, name: str) -> bool:
    """Return whether the search, a re-evaluation or a retry of it is unfinished. Raises `NotFoundError`."""
    with read_transaction(engine) as connection:
        row = get_search(connection, name)
        retrainings = list_open_retrainings(connection, row.id)
    return any(_should_run(unfinished) for unfinished in (row, *retrainings))


def _should_run(row: SearchRecord) -> bool:
    return row.finished_at is None and row.wish == DesiredState.RUN


def _exit_code(row: SearchRecord) -> int:
    if row.wish != DesiredState.RUN:
        return STOPPED
    if row.finished_at is None:
        return PREEMPTED
    if row.failed:
        return FAILED
    complete = row.exhausted or row.settled >= row.births_allowed
    return FINISHED if complete else STOPPED


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, supervise, and return the exit code."""
    let_output_escape()
    parsed = _parser().parse_args(arguments)
    try:
        settings = load_settings(os.environ, parsed.home)
        options = DaemonOptions(
            slots=parsed.slots,
            devices=tuple(parsed.devices),
            exclude=tuple(parsed.exclude),
            max_per_device=parsed.max_per_device,
            lanes=parsed.lanes,
            allow=tuple(parsed.allow),
            policy=parsed.policy,
            launcher=parsed.launcher,
            address=parsed.address,
            cpus_per_worker=parsed.cpus_per_worker,
            gpus_per_worker=parsed.gpus_per_worker,
        )
        if parsed.only is None:
            run_daemon(settings, options)
            return FINISHED
        printer = ProgressPrinter(open_record(settings.database_url), settings, parsed.only)
        return run_search(settings, parsed.only, options, printer)
    except EatnasError as error:
        print(f"eatnas-db: {escape_controls(str(error))}", file=sys.stderr)
    except OSError as error:
        print(f"eatnas-db: {escape_controls(describe_os_error(error))}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eatnas_daemon.main",
        description="Train the searches of a home. The environment variable EATNAS_DB_URL sets another database.",
    )
    parser.add_argument("--home", help="home folder; default: EATNAS_HOME, or .eatnas")
    parser.add_argument("--only", metavar="NAME", help="train this search until it ends; default: every search")
    parser.add_argument(
        "--slots", type=_positive, help="number of candidates to train at the same time; default: as many as fit"
    )
    parser.add_argument(
        "--devices",
        action="append",
        default=[],
        help="index or UUID of a GPU to use, or `cpu`; repeatable; default: all GPUs, or the CPU if there is no GPU",
    )
    parser.add_argument("--exclude", action="append", default=[], help="device not to use; repeatable; default: none")
    parser.add_argument(
        "--max-per-device", type=_positive, help="maximum number of workers on one GPU; default: as many as fit"
    )
    parser.add_argument(
        "--lanes", type=_positive, help="number of candidates that one worker process trains on a GPU; default: 1"
    )
    parser.add_argument(
        "--allow", action="append", default=[], help="user or program to share GPUs with; repeatable; default: none"
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, help="launcher of the workers; default: local")
    parser.add_argument("--address", help="HOST:PORT of a Ray head; default: auto")
    parser.add_argument("--cpus-per-worker", type=float, help="CPUs that Ray reserves for each worker; default: 1")
    parser.add_argument("--gpus-per-worker", type=float, help="GPU share that Ray reserves for each worker; default: 0")
    parser.add_argument("--policy", choices=POLICIES, help="reaction to another process on a GPU; default: yield")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
