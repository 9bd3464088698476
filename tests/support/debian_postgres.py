"""A PostgreSQL server from the packages of Debian or Ubuntu, which is older than the server from pip."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = Path("/usr/lib/postgresql")


def find_programs() -> Path | None:
    """Return the folder of the oldest installed server's programs."""
    folders = sorted(PACKAGES.glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    return folders[0].parent if folders else None


@contextmanager
def debian_server(programs: Path, folder: Path) -> Iterator[str]:
    """Run a server whose data are in `folder`, and yield the URL of its database `postgres`."""
    prefix: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = str(folder / "data")

    def run(program: str, *arguments: str) -> None:
        subprocess.run([*prefix, str(programs / program), *arguments], check=True, capture_output=True, cwd=folder)

    run("initdb", "-D", data, "-U", "postgres", "--no-sync", "-A", "trust", "-E", "UTF8", "--locale=C")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c wal_level=logical"
    run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    finally:
        run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
