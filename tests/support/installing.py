"""Install a package of this repository into a folder, as `pip install --target` does, but without the network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def install_package(source: Path, target: Path, work: Path) -> None:
    """Build the wheel of a package from a copy in `work` and install it into `target`."""
    copy = work / source.name
    shutil.copytree(source, copy)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation", "--no-deps"]
    subprocess.run([*command, "--disable-pip-version-check", "--target", str(target), str(copy)], check=True)
