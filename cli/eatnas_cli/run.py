"""`run` and `demo`: train a search in the foreground."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Final

import typer

from eatnas_cli.devices import Allow, Devices, Exclude, Manners, MaxPerDevice
from eatnas_cli.record import SearchName
from eatnas_daemon.daemon_options import DaemonOptions
from eatnas_db.settings import Settings

Slots = Annotated[
    int | None,
    typer.Option(min=1, help="Candidates trained at a time; default: physical cores, or as many as fit on the GPUs."),
]


def daemon_options(
    slots: int | None,
    devices: list[str] | None,
    exclude: list[str] | None,
    max_per_device: int | None,
    allow: list[str] | None,
    policy: str | None,
) -> DaemonOptions:
    """Return the options of a command as a dataclass. Raises `ConflictError`."""
    return DaemonOptions(
        slots=slots,
        devices=tuple(devices or ()),
        exclude=tuple(exclude or ()),
        max_per_device=max_per_device,
        allow=tuple(allow or ()),
        policy=policy,
    )


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
    options = daemon_options(slots, devices, exclude, max_per_device, allow, policy)
    raise typer.Exit(run_search(ctx.obj, name, options))


def run_search(settings: Settings, name: str, options: DaemonOptions) -> int:
    """Train one search in the foreground with a progress display and return the exit code."""
    from eatnas_cli.progress import Display
    from eatnas_daemon import main as daemon
    from eatnas_db.database.engine import open_record
    from eatnas_db.database.transactions import read_transaction
    from eatnas_db.queries.searches import get_search

    engine = open_record(settings.database_url)
    with read_transaction(engine) as connection:
        get_search(connection, name)
    with Display(engine, settings, name) as display:
        return daemon.run_search(settings, name, options, display)


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
    code = run_search(settings, name, DaemonOptions(slots=2))
    if code != 0:
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
