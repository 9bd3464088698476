"""`run` and `demo`: a search in the foreground; and what supervises it, here as in the daemon."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from eatnas_cli.devices import Allow, Devices, Exclude, Manners, MaxPerDevice
from eatnas_cli.record import SearchName
from eatnas_db.domain.states import DesiredState
from eatnas_db.errors import ConflictError
from eatnas_db.settings import Settings

if TYPE_CHECKING:
    from eatnas_daemon.follower import Follower
    from eatnas_daemon.gpu_scheduler import GpuScheduler
    from eatnas_daemon.supervisor import Supervisor
    from eatnas_db.queries.searches import SearchRecord

Slots = Annotated[
    int | None,
    typer.Option(min=1, help="Candidates trained at a time; default: physical cores, or as many as fit on the GPUs."),
]
WATCH_SECONDS: Final = 0.2
DRIVERLESS_SECONDS: Final = 60.0
"""Between two looks where there is no driver, or one that does not work."""
BUSY_SECONDS: Final = 5.0
"""How long a supervisor waits for another program's transaction: meanwhile it does not hear its workers."""
FINISHED, STOPPED, PREEMPTED = 0, 3, 75


@dataclass(frozen=True, slots=True)
class Resources:
    """What a daemon may take of its machine, as asked for."""

    slots: int | None = None
    devices: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_per_device: int | None = None
    allow: tuple[str, ...] = ()
    policy: str | None = None

    def arguments(self) -> list[str]:
        """The same as options of a command line."""
        given = [("--slots", self.slots), ("--max-per-device", self.max_per_device), ("--policy", self.policy)]
        named = [("--devices", self.devices), ("--exclude", self.exclude), ("--allow", self.allow)]
        pairs = [(option, value) for option, value in given if value is not None]
        pairs += [(option, value) for option, values in named for value in values]
        return [part for option, value in pairs for part in (option, str(value))]


def resources(
    slots: int | None,
    devices: list[str] | None,
    exclude: list[str] | None,
    max_per_device: int | None,
    allow: list[str] | None,
    policy: str | None,
) -> Resources:
    """The options of a command line. Raises `ConflictError`."""
    if policy not in (None, "yield", "stay"):
        raise ConflictError(f"--policy {policy}: expected yield or stay")
    named = (tuple(words or ()) for words in (devices, exclude, allow))
    return Resources(slots, next(named), next(named), max_per_device, next(named), policy)


def run(
    ctx: typer.Context,
    name: SearchName,
    slots: Slots = None,
    devices: Devices = None,
    exclude: Exclude = None,
    max_per_device: MaxPerDevice = None,
    allow: Allow = None,
    policy: Manners = None,
) -> None:
    """Train one search in the foreground until it ends.

    Where a daemon works on the record already, only watch; take over if it goes away. Exit 0: finished. 75:
    stopped by a signal, start me again. 3: paused, cancelled or out of device hours.
    """
    asked = resources(slots, devices, exclude, max_per_device, allow, policy)
    raise typer.Exit(run_search(ctx.obj, name, asked))


def run_search(settings: Settings, name: str, asked: Resources) -> int:
    """Supervise one search, or watch who does, with a progress line; the exit code."""
    from eatnas_cli.progress import Display
    from eatnas_daemon import lock
    from eatnas_db.database.engine import open_record
    from eatnas_db.database.transactions import reading
    from eatnas_db.queries.searches import get_open_yardstick, get_search

    # Until the supervisor takes the signals, nothing is in hand that would have to be checkpointed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(PREEMPTED))
    engine = open_record(settings.database_url)
    told: int | None = None

    def standing() -> SearchRecord:
        with reading(engine) as connection:
            return get_search(connection, name)

    def goes_on() -> bool:
        with reading(engine) as connection:
            row = get_search(connection, name)
            measuring = get_open_yardstick(connection, row.id)
        return _goes_on(row) or (measuring is not None and _goes_on(measuring))

    standing()
    with Display(engine, settings, name) as display:
        while goes_on():
            with ExitStack() as held:
                try:
                    held.enter_context(lock.hold(settings.lock_file))
                except ConflictError:
                    holder = lock.holder_of(settings.lock_file)
                    if holder not in (None, told):
                        typer.echo(f"a daemon (pid {holder}) works on this record; watching", err=True)
                        told = holder
                    display.refresh()
                    time.sleep(WATCH_SECONDS)
                    continue
                supervise(
                    settings,
                    asked,
                    only=name,
                    on_tick=lambda now: display.refresh(at_once=now.finished, trouble=now.trouble),
                )
            break
        display.refresh(at_once=True)
    return _exit_code(standing())


def supervise(
    settings: Settings,
    asked: Resources,
    *,
    only: str | None = None,
    when_ready: Callable[[], None] = lambda: None,
    on_tick: Callable[[Supervisor], object] = lambda _: None,
) -> None:
    """Keep all slots training until stopped, or until the search `only` is finished; the log tells."""
    from eatnas_daemon.event_log import Journal, open_log
    from eatnas_daemon.launchers import Launcher
    from eatnas_daemon.supervisor import Supervisor
    from eatnas_db.config import read_max_bytes
    from eatnas_db.database.engine import open_record

    engine = open_record(settings.database_url, busy_seconds=BUSY_SECONDS)
    log = open_log(settings.logs / "daemon.log")
    journal = Journal(engine, log)
    followers = _followers(settings)
    count, gpus, floor = _floor(asked)

    def look(supervisor: Supervisor) -> None:
        journal.look(supervisor)
        for follower in followers:
            follower.ensure()
        on_tick(supervisor)

    log.info("started, pid %d, %s%s", os.getpid(), _places(count, gpus), f", for search {only} alone" if only else "")
    try:
        supervisor = Supervisor(
            engine,
            settings,
            Launcher(settings.logs),
            slots=count,
            host_name=settings.host,
            only=only,
            max_bytes=read_max_bytes(settings.home, os.environ),
            floor=floor,
        )
        for follower in followers:
            follower.start()
        when_ready()
        supervisor.run(look)
        journal.look(supervisor, at_once=True)
    except Exception:
        log.exception("ends by an error")
        raise
    finally:
        for follower in followers:
            follower.stop()
    log.info("stopped, pid %d", os.getpid())


def _places(slots: int, gpus: int) -> str:
    return f"{gpus} GPUs, {slots} slots on the processor" if gpus else f"{slots} slots"


def _floor(asked: Resources) -> tuple[int, int, GpuScheduler | None]:
    """How many slots the processor has, how many GPUs may be used, and the floor that decides where they are free.

    Raises `EatnasError` for bad wishes.
    """
    from eatnas_daemon.devices.availability import Cause, judge
    from eatnas_daemon.devices.capacity import usable_gpus
    from eatnas_daemon.devices.model import CPU
    from eatnas_daemon.devices.monitor import ANSWER_SECONDS, DeviceMonitor
    from eatnas_daemon.devices.nvml import Nvml
    from eatnas_daemon.devices.options import wishes_of
    from eatnas_daemon.devices.probe import probe, processor_now
    from eatnas_daemon.devices.sharing import Policy
    from eatnas_daemon.gpu_scheduler import GpuScheduler
    from eatnas_db.domain.rng import KeyedRng

    nvml = Nvml()
    lookout = DeviceMonitor(lambda: probe(nvml), patience=ANSWER_SECONDS)
    seen = lookout.seen()
    if not seen and (asked.devices or asked.exclude):
        raise ConflictError(f"the NVIDIA driver has not answered for {ANSWER_SECONDS:g} s: devices are not known")
    seen = seen or [processor_now()]
    wishes = wishes_of(
        seen,
        devices=asked.devices,
        exclude=asked.exclude,
        max_per_device=asked.max_per_device,
        allowed=asked.allow,
        environment=os.environ,
    )
    trains = any(judge(one, wishes).cause is not Cause.UNWANTED for one in seen if one.kind == CPU)
    cores = seen[-1].cores
    slots = (asked.slots or cores) if trains else 0
    if wishes.chosen is not None and wishes.chosen <= {CPU}:
        lookout.close()
        return slots, 0, None
    if nvml.trouble is not None:
        lookout.every = DRIVERLESS_SECONDS
    chance = KeyedRng(time.time_ns(), "yield", os.getpid())
    policy = Policy(asked.policy or Policy.YIELD)
    # Each worker keeps a core busy beside its device.
    gpus = usable_gpus(seen, wishes)
    per_device = max(1, cores // max(1, gpus))
    most = None if trains else asked.slots
    return slots, gpus, GpuScheduler(lookout, wishes, chance, policy=policy, most=most, per_device=per_device)


def _followers(settings: Settings) -> list[Follower]:
    """MLflow's, and where a command is configured the one that starts it. Raises `EatnasError`."""
    from eatnas_daemon.follower import Follower
    from eatnas_db.config import read_hooks

    uri = os.environ.get("MLFLOW_TRACKING_URI") or settings.mlflow_uri
    addresses = {
        "EATNAS_DB_URL": settings.database_url,
        "EATNAS_HOME": str(settings.home),
        "EATNAS_HOST": settings.host,
        "MLFLOW_TRACKING_URI": uri,
    }
    followers = [Follower(("eatnas_daemon.mlflow.sync",), addresses, settings.logs / "mlflow.log")]
    if read_hooks(settings.home) is not None:
        program = ("eatnas_daemon.hooks", "--since", str(time.time()))
        followers.append(Follower(program, addresses, settings.logs / "hooks.log"))
    return followers


def _goes_on(row: SearchRecord) -> bool:
    return row.finished_at is None and row.wish == DesiredState.RUN


def _exit_code(row: SearchRecord) -> int:
    if row.wish != DesiredState.RUN:
        return STOPPED
    if row.finished_at is None:
        return PREEMPTED
    done = row.exhausted or row.settled >= row.births_allowed
    return FINISHED if done else STOPPED


def demo(ctx: typer.Context) -> None:
    """EAT-NAS from end to end on real images (scikit-learn's digits), then what can be asked about it.

    A search on a few small images, its best measured again, and a search on more and larger images with wider
    networks that begins with the winner.
    """
    from eatnas_cli.query import best, fingerprint, lineage
    from eatnas_cli.record import viewing
    from eatnas_cli.search import make_home
    from eatnas_daemon.search_creation import TransferSource, create_search_from_spec
    from eatnas_db.queries.searches import list_searches

    settings: Settings = ctx.obj
    make_home(settings)
    with viewing(settings) as connection:
        taken = {row.name for row in list_searches(connection)}
    number = next(n for n in itertools.count(1) if not {f"demo-small-{n}", f"demo-large-{n}"} & taken)
    small, large = f"demo-small-{number}", f"demo-large-{number}"
    typer.echo("A small task: 500 digits of 8x8 pixels")
    create_search_from_spec(settings, {"name": small, **DEMO_SMALL}, slots=2)
    _run_to_its_end(settings, small)
    typer.echo("\nIts best, measured again from scratch with fresh seeds (the yardstick)")
    best(ctx, small, top=3)
    typer.echo(
        "\nThe large task: all digits at 16x16 pixels, wider networks; it begins with the winner and changes of it"
    )
    create_search_from_spec(settings, {"name": large, **DEMO_LARGE}, slots=2, source=TransferSource(small))
    _run_to_its_end(settings, large)
    best(ctx, large, top=5)
    typer.echo("\nHow the best one came to be, across both searches")
    lineage(ctx, large)
    typer.echo("\nThe fingerprint of the large search, equal wherever both are run on an equal processor")
    fingerprint(ctx, large)
    typer.echo(
        f"\nWhat to type next:\n  eatnas-db query quality {large}\n"
        f"  eatnas-db search extend {large} --candidates 16\n  eatnas-db mlflow ui"
    )


def _run_to_its_end(settings: Settings, name: str) -> None:
    code = run_search(settings, name, Resources(slots=2))
    if code != FINISHED:
        raise typer.Exit(code)


DEMO_SMALL: Final[dict[str, Any]] = {
    "seed": 1,
    "space": "eatnas-tiny",
    "data": {"name": "digits", "train_images": 500},
    "training": {"epochs": 6, "batch_size": 32, "augment": "none"},
    "evolution": {"population": 8, "tournament": 4, "lag": 4},
    "objective": {"max_mult_adds": 2_500_000},
    "budget": {"candidates": 24},
    "yardstick": {"top": 3, "seeds": 2},
}
DEMO_LARGE: Final[dict[str, Any]] = {
    "seed": 1,
    "space": {
        "name": "demo-large",
        "stem_channels": 12,
        "strides": [1, 1, 2, 1, 1, 2, 1],
        "base": [16, 24, 32, 64, 96, 160, 320],
        "head_channels": 128,
        "multiplier": 0.3,
    },
    "data": {"name": "digits", "resolution": 16},
    "training": {"epochs": 4, "batch_size": 32, "augment": "none"},
    "evolution": {"population": 6, "tournament": 3, "lag": 4},
    "objective": {"max_mult_adds": 16_000_000},
    "transfer": {"blocks": 2},
    "budget": {"candidates": 12},
    "yardstick": {"top": 0},
}
