"""Homes whose commands see the packages of a folder, as after `pip install --target`."""

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
from support.batches import batch_arguments
from support.searches import fetch_rows


class PluginHome:
    """A home, and the commands on it; a command is a line without quotes. No daemon of the home starts MLflow."""

    def __init__(self, folder: Path, packages: Path) -> None:
        self.folder = folder
        self.settings = load_settings({}, str(folder))
        make_home(self.settings)
        self.environment = {**os.environ, "EATNAS_HOME": str(folder), "PYTHONPATH": str(packages)}
        self.environment["EATNAS_MLFLOW"] = "off"

    def start(self, line: str) -> subprocess.Popen[str]:
        """Start a command in a new process group."""
        return self._start(["-m", "eatnas_cli", *line.split()])

    def run(self, line: str, *, status: int = 0) -> str:
        """Run a command; return its output, or its errors if it is expected to fail."""
        with self.start(line) as process:
            output, errors = process.communicate()
        assert process.returncode == status, (line, output, errors)
        assert "Traceback" not in errors, errors
        return output if status == 0 else errors

    def run_all(self, lines: Sequence[str]) -> dict[str, str]:
        """Run commands one after another in one process, and return their outputs."""
        with self._start(batch_arguments([line.split() for line in lines])) as process:
            output, errors = process.communicate()
        assert process.returncode == 0, errors
        return dict(zip(lines, json.loads(output), strict=True))

    def create(self, spec: dict[str, Any], command: str = "search create") -> None:
        """Create a search of a spec, or a transfer to it."""
        file = self.folder / f"{spec['name']}.yaml"
        file.write_text(json.dumps(spec))
        self.run(f"{command} {file}")

    def count_scored(self) -> int:
        """Return the number of candidates with a score, of all searches."""
        ((count,),) = fetch_rows(self.settings, select(func.count()).where(candidate.c.state == "scored"))
        return int(count)

    def _start(self, arguments: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", *arguments],
            env=self.environment,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
