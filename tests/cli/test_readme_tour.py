"""The README's tour, command by command, as a newcomer types them."""

import os
import shlex
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
def test_commands_of_the_tour_succeed_and_print(tmp_path, command_server):
    copy_small_examples(tmp_path)
    environment = {**os.environ, "EATNAS_HOME": str(tmp_path / "home"), "EATNAS_MLFLOW": "off"}
    commands = tour()
    assert len(commands) > 15
    try:
        for line in commands:
            arguments = shlex.split(line.replace("/tmp/", f"{tmp_path}/"))[1:]
            done = command_server.run(arguments, cwd=tmp_path, env=environment)
            assert done.returncode == 0, (line, done.stderr)
            assert done.stdout, line
    finally:
        command_server.run(["daemon", "stop", "--now"], cwd=tmp_path, env=environment)
