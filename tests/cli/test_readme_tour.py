"""The README's tour, command by command, as a newcomer types them."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.examples import copy_small_examples

ROOT = Path(__file__).parents[2]
SERVES_UNTIL_CTRL_C = ["eatnas-db mlflow ui", "eatnas-db serve"]


def tour():
    section = (ROOT / "README.md").read_text().split("## Tour")[1].split("\n## ")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    eatnas-db ")]
    return [line for line in lines if line not in SERVES_UNTIL_CTRL_C]


@pytest.mark.slow
def test_every_command_of_the_tour_works(tmp_path):
    copy_small_examples(tmp_path)
    environment = {**os.environ, "EATNAS_HOME": str(tmp_path / "home"), "EATNAS_MLFLOW": "off"}
    commands = tour()
    assert len(commands) > 15
    try:
        for line in commands:
            command = [sys.executable, "-m", "eatnas_cli", *shlex.split(line.replace("/tmp/", f"{tmp_path}/"))[1:]]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stderr)
            assert done.stdout, line
    finally:
        stop = [sys.executable, "-m", "eatnas_cli", "daemon", "stop", "--now"]
        subprocess.run(stop, env=environment, capture_output=True, check=False)
