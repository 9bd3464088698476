"""Where a home and its database are: decided once at start-up and passed down."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eatnas_db.errors import RecordError


@dataclass(frozen=True, slots=True)
class Settings:
    """A home folder, a database URL, and the name of this host in the record."""

    home: Path
    database_url: str
    host: str = field(default_factory=socket.gethostname)

    @property
    def artifacts(self) -> Path:
        """The folder of the checkpoints."""
        return self.home / "artifacts"

    @property
    def logs(self) -> Path:
        """The folder of the daemon's log and of one log for each candidate."""
        return self.home / "logs"

    @property
    def data(self) -> Path:
        """The folder of the data sets."""
        return self.home / "data"

    @property
    def mlflow_uri(self) -> str:
        """The URI of the home's own MLflow store."""
        return f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def database_file(self) -> Path | None:
        """The SQLite file, or None for a server."""
        prefix = "sqlite:///"
        return Path(self.database_url[len(prefix) :]) if self.database_url.startswith(prefix) else None

    @property
    def lock_file(self) -> Path:
        """The daemon's lock file.

        It lies next to an SQLite file, so that two homes with one database share it. On a server each host has its own.
        """
        file = self.database_file
        if file is not None:
            return file.with_name(file.name + ".lock")
        return self.home / f"daemon-{re.sub('[^A-Za-z0-9.-]', '_', self.host)}.lock"

    @property
    def printable_url(self) -> str:
        """The database URL without its password and its options, which may hold one too."""
        if self.database_file is not None:
            return self.database_url
        return re.sub(r"//([^:@/]*)(:.*)?@", r"//\1@", self.database_url).partition("?")[0]


def load_settings(environment: Mapping[str, str], home: str | None = None, db: str | None = None) -> Settings:
    """Return the settings from the arguments, else from the environment, else the defaults. Raises `RecordError`.

    `EATNAS_HOME` (default: `.eatnas` in the working folder), `EATNAS_DB_URL` (default: an SQLite file in the home)
    and `EATNAS_HOST` (default: the host name).
    """
    folder = Path(home or environment.get("EATNAS_HOME") or ".eatnas").absolute()
    url = db or environment.get("EATNAS_DB_URL") or f"sqlite:///{folder / 'eatnas.db'}"
    if not url.startswith("sqlite:///"):
        require_supported_database(url.partition(":")[0])
    return Settings(folder, url, environment.get("EATNAS_HOST") or socket.gethostname())


def require_supported_database(scheme: str) -> None:
    """Raise `RecordError` unless `scheme` is the scheme of a PostgreSQL URL for psycopg."""
    if scheme not in ("postgresql", "postgresql+psycopg"):
        raise RecordError(
            f"databases of kind {scheme!r} are not supported; use PostgreSQL "
            "(postgresql+psycopg://USER@HOST/DATABASE) or SQLite (sqlite:///FILE)"
        )
