"""The home folder and its database. A program determines the folder and the database once, when it starts."""

from __future__ import annotations

import hashlib
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from eatnas_db.domain.data_source import with_absolute_path
from eatnas_db.errors import RecordError
from eatnas_db.text_encoding import escape_unstorable, is_storable
from eatnas_db.urls import (
    SQLITE_PREFIX,
    expand_home,
    is_scheme,
    mlflow_store_url,
    printable_url,
    require_parsable_url,
    sqlite_file,
    sqlite_url,
)

MAX_HOST_NAME: Final = 255
MAX_LOCK_NAME: Final = 100
MLFLOW_SWITCH: Final = "EATNAS_MLFLOW"


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
    def cache(self) -> Path:
        """The folder of caches that can be computed again: decoded image folders."""
        return self.home / "cache"

    def locate_data(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `data` section of a spec; add the home's cache, and the home's data folder as the default root.

        If the name is a path, it becomes absolute.
        """
        cache = str(self.cache) if self.home.is_dir() else None
        name = with_absolute_path(data["name"], Path(data.get("root") or "."))
        return {**data, "name": name, "root": data.get("root") or str(self.data), "cache": cache}

    @property
    def mlflow_uri(self) -> str:
        """The URI of the home's own MLflow store."""
        return mlflow_store_url(self.home / "mlflow.db")

    @property
    def database_file(self) -> Path | None:
        """The SQLite file, or None for a server."""
        return sqlite_file(self.database_url)

    @property
    def lock_file(self) -> Path:
        """The daemon's lock file.

        The file is next to an SQLite database, so that two homes with one database share the lock file. With a server,
        each host has its own lock file.
        """
        file = self.database_file
        if file is not None:
            return lock_next_to(file)
        return self.home / f"daemon-{_file_name_part(self.host)}.lock"

    @property
    def printable_url(self) -> str:
        """The database URL without its password and its options, which may also contain a password."""
        return printable_url(self.database_url)

    def tracking_uri(self, environment: Mapping[str, str]) -> str:
        """Return the URI of the MLflow store: `MLFLOW_TRACKING_URI`, else the store of the home."""
        uri = environment.get("MLFLOW_TRACKING_URI")
        if not uri:
            return self.mlflow_uri
        if (file := sqlite_file(uri)) is not None and "?" not in uri:
            return mlflow_store_url(file.absolute())
        return str(expand_home(Path(uri))) if uri.startswith("~") else uri


def is_mlflow_on(environment: Mapping[str, str]) -> bool:
    """Return whether daemons write to MLflow: `EATNAS_MLFLOW` is `on`, the default, or `off`. Raises `RecordError`."""
    given = environment.get(MLFLOW_SWITCH) or "on"
    if given not in ("on", "off"):
        raise RecordError(f"{MLFLOW_SWITCH} is {given!r}; expected on or off")
    return given == "on"


def _file_name_part(host: str) -> str:
    """Return a host's name as a part of a file name. Different names give different parts."""
    part = re.sub("[^A-Za-z0-9.-]", "_", host)[:MAX_LOCK_NAME]
    return part if part == host else f"{part}-{hashlib.sha256(host.encode()).hexdigest()[:8]}"


def lock_next_to(database: Path) -> Path:
    """Return the daemon's lock file for an SQLite file. All links to the database share the lock file."""
    file = database.resolve()
    return file.with_name(f"{file.name}.lock")


def load_settings(environment: Mapping[str, str], home: str | None = None, db: str | None = None) -> Settings:
    """Return the settings from the arguments, else from the environment, else from the defaults. Raises `RecordError`.

    The variables are `EATNAS_HOME` (default: `.eatnas` in the working folder), `EATNAS_DB_URL` (default: an SQLite file
    in the home) and `EATNAS_HOST` (default: the host name).
    """
    folder = home or environment.get("EATNAS_HOME") or ".eatnas"
    _require_text(folder, "the home (--home, EATNAS_HOME)")
    path = expand_home(Path(folder)).absolute()
    url = db or environment.get("EATNAS_DB_URL") or sqlite_url(path / "eatnas.db")
    if url.startswith(SQLITE_PREFIX):
        url = sqlite_url(_require_sqlite_file(url))
    else:
        require_supported_database(url)
    host = environment.get("EATNAS_HOST") or socket.gethostname()
    _require_host_name(host)
    return Settings(path, url, host)


def _require_sqlite_file(url: str) -> Path:
    """Return the absolute path of the file that a URL names. Raises `RecordError`."""
    file = sqlite_file(url)
    if "?" in url or file is None or not file.name:
        problem = "has options" if "?" in url else "names no file"
        raise RecordError(
            f"the database URL {url} {problem}; expected sqlite:///FILE; write %3F for a question mark in the path"
        )
    _require_text(str(file), "the file of the database (--db, EATNAS_DB_URL)")
    return file.absolute()


def _require_host_name(host: str) -> None:
    """Raise `RecordError` if the record cannot store the name of a host."""
    _require_text(host, "the host name (EATNAS_HOST)")
    if len(host) > MAX_HOST_NAME:
        raise RecordError(
            f"the host name (EATNAS_HOST) has {len(host)} characters, and at most {MAX_HOST_NAME} are allowed; "
            "set EATNAS_HOST to a shorter one"
        )
    if not host.isprintable():
        raise RecordError(
            f"the host name (EATNAS_HOST) {host!r} contains unprintable characters; set EATNAS_HOST to another name"
        )


def _require_text(value: str, name: str) -> None:
    """Raise `RecordError` if a value contains a NUL, or bytes that this program's encoding cannot decode."""
    if is_storable(value):
        return
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        raise RecordError(f"{name} {escape_unstorable(value)} is not valid UTF-8; rename it, or choose another one")
    raise RecordError(
        f"{name} {escape_unstorable(value)} cannot be read with this system's encoding ({encoding}); "
        "set PYTHONUTF8=1 or LC_ALL=C.UTF-8"
    )


def require_supported_database(url: str) -> None:
    """Raise `RecordError` unless `url` has the scheme of a PostgreSQL URL for psycopg."""
    scheme, separator, _ = url.partition("://")
    if not separator or not is_scheme(scheme):
        require_parsable_url("", "the database URL")
    if scheme not in ("postgresql", "postgresql+psycopg"):
        raise RecordError(
            f"databases of kind {scheme!r} are not supported; use PostgreSQL "
            "(postgresql+psycopg://USER@HOST/DATABASE) or SQLite (sqlite:///FILE)"
        )
