"""Homes whose commands find the packages of a folder, as after `pip install --target`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from eatnas_cli.init import make_home
from eatnas_db.schema.candidates import candidate
from eatnas_db.settings import load_settings
from support.command_server import CommandServer
from support.searches import fetch_rows


class PluginHome:
    """A home, and methods that run commands on it. A command is one line without quotes.

    No daemon of the home starts MLflow.
    """

    def __init__(self, folder: Path, packages: Path, server: CommandServer) -> None:
        self.folder, self.server = folder, server
        self.settings = load_settings({}, str(folder))
        make_home(self.settings)
        self.environment = {**os.environ, "EATNAS_HOME": str(folder), "PYTHONPATH": str(packages)}
        self.environment["EATNAS_MLFLOW"] = "off"

    def start(self, line: str) -> subprocess.Popen[str]:
        """Start a command in a new interpreter and a new process group."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "eatnas_cli", *line.split()],
            env=self.environment,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, line: str, *, status: int = 0) -> str:
        """Run a command. Return its stdout, or its stderr if the command is expected to fail."""
        done = self.server.run(line.split(), cwd=self.folder, env=self.environment)
        assert done.returncode == status, (line, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout if status == 0 else done.stderr

    def run_all(self, lines: Sequence[str]) -> dict[str, str]:
        """Run commands one after another, and return their outputs."""
        return {line: self.run(line) for line in lines}

    def create(self, spec: dict[str, Any], command: str = "search create") -> None:
        """Create the search of a spec, from scratch or as a transfer."""
        file = self.folder / f"{spec['name']}.yaml"
        file.write_text(json.dumps(spec))
        self.run(f"{command} {file}")

    def count_scored(self) -> int:
        """Return the number of scored candidates of all searches."""
        ((count,),) = fetch_rows(self.settings, select(func.count()).where(candidate.c.state == "scored"))
        return int(count)
