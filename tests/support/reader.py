"""Run a program as a user who may read but not write files, even if the tests run as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DROPPED = "-dac_override,-dac_read_search"
WRITE_BITS = 0o222


def run_as_reader(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program to its end, as a user to whom the permissions of files apply."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root ignores permissions, and setpriv is not installed")
        prefix = ["setpriv", f"--bounding-set={DROPPED}", f"--inh-caps={DROPPED}"]
    command = [*prefix, sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def without_write_permission(folder: Path) -> Iterator[None]:
    """Remove the permission to write to a folder and everything in it during a block."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & ~WRITE_BITS)
    try:
        yield
    finally:
        for path, mode in modes.items():
            if path.exists():
                path.chmod(mode)
