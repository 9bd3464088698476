"""Where things are: the home folder and the database's address, settled once and handed down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eatnas_db.errors import RecordError


@dataclass(frozen=True, slots=True)
class Settings:
    """A home folder and a database URL; everything else follows from the two."""

    home: Path
    database_url: str

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
        """Beside the SQLite file, so that two homes on one file meet."""
        file = self.database_file
        return self.home / "daemon.lock" if file is None else file.with_name(file.name + ".lock")


def load_settings(environment: Mapping[str, str], home: str | None = None, db: str | None = None) -> Settings:
    """Options first, then `EATNAS_HOME` and `EATNAS_DB_URL`, then `.eatnas` in the working folder."""
    folder = Path(home or environment.get("EATNAS_HOME") or ".eatnas").absolute()
    url = db or environment.get("EATNAS_DB_URL") or f"sqlite:///{folder / 'eatnas.db'}"
    if not url.startswith(("sqlite:///", "postgresql")):
        scheme = url.split(":", 1)[0]
        raise RecordError(f"database URL of kind {scheme!r}: only sqlite:///FILE is supported in this release")
    if url.startswith("postgresql"):
        raise RecordError("PostgreSQL comes in a later release; use sqlite:///FILE, or leave --db out")
    return Settings(folder, url)
