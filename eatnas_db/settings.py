"""Where things are: the home folder and the database's address, settled once and handed down."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eatnas_db.errors import RecordError


@dataclass(frozen=True, slots=True)
class Settings:
    """A home folder, a database URL and this host's name in the record; everything else follows from them."""

    home: Path
    database_url: str
    host: str = field(default_factory=socket.gethostname)

    @property
    def artifacts(self) -> Path:
        """Checkpoints."""
        return self.home / "artifacts"

    @property
    def logs(self) -> Path:
        """The daemon's log, and one for each candidate."""
        return self.home / "logs"

    @property
    def data(self) -> Path:
        """Where data sets are downloaded to and looked for."""
        return self.home / "data"

    @property
    def mlflow_uri(self) -> str:
        """The home's own MLflow store."""
        return f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def database_file(self) -> Path | None:
        """The SQLite file, or None on a server."""
        prefix = "sqlite:///"
        return Path(self.database_url[len(prefix) :]) if self.database_url.startswith(prefix) else None

    @property
    def lock_file(self) -> Path:
        """Beside the SQLite file, so that two homes on one file meet. On a server each host has its own."""
        file = self.database_file
        if file is not None:
            return file.with_name(file.name + ".lock")
        return self.home / f"daemon-{re.sub('[^A-Za-z0-9.-]', '_', self.host)}.lock"

    @property
    def printable_url(self) -> str:
        """The database's address, fit to be printed: without a password, and without options that may hold one."""
        if self.database_file is not None:
            return self.database_url
        return re.sub(r"//([^:@/]*)(:.*)?@", r"//\1@", self.database_url).partition("?")[0]


def load_settings(environment: Mapping[str, str], home: str | None = None, db: str | None = None) -> Settings:
    """Options first, then `EATNAS_HOME` and `EATNAS_DB_URL`, then `.eatnas` in the working folder.

    `EATNAS_HOST` names this host in the record; the machine's own name where it is not set.
    """
    folder = Path(home or environment.get("EATNAS_HOME") or ".eatnas").absolute()
    url = db or environment.get("EATNAS_DB_URL") or f"sqlite:///{folder / 'eatnas.db'}"
    scheme = url.split(":", 1)[0]
    if not url.startswith("sqlite:///") and scheme not in ("postgresql", "postgresql+psycopg"):
        raise RecordError(
            f"databases of kind {scheme!r} are not supported: use PostgreSQL "
            "(postgresql+psycopg://USER@HOST/DATABASE) or SQLite (sqlite:///FILE)"
        )
    return Settings(folder, url, environment.get("EATNAS_HOST") or socket.gethostname())
