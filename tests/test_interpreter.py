"""Child processes do not import modules from the user's working folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eatnas_db.interpreter import python_command
from support.shadowing_files import write_shadowing_files

ROOT = Path(__file__).parents[1]
SOURCES = [source for top in ("eatnas_db", "daemon", "cli", "migrations") for source in (ROOT / top).rglob("*.py")]
SPEC = """
name: tiny
space: eatnas-tiny
data: {name: digits, train_images: 64, validation_images: 64}
training: {epochs: 1, batch_size: 32}
evolution: {population: 2, tournament: 2, lag: 2}
budget: {candidates: 2}
reevaluation: {top: 0}
"""


@pytest.fixture
def work(tmp_path):
    """Return a working folder with files that have the names of modules and leave a trace when they are imported."""
    folder = tmp_path / "work"
    folder.mkdir()
    write_shadowing_files(folder, tmp_path / "imported")
    return folder


def test_modules_are_not_imported_from_the_working_folder(work, tmp_path):
    done = subprocess.run(python_command("-c", "import random, json"), cwd=work, check=False)
    assert (done.returncode, (tmp_path / "imported").exists()) == (0, False)


def test_pythonpath_still_counts(tmp_path):
    (tmp_path / "own_module.py").write_text("print('found')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = python_command("-c", "import own_module, eatnas_db")
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "found\n"


def test_every_child_is_started_by_the_same_command():
    # The second file calls `os.execv` with `sys.orig_argv`, which repeats the interpreter options of the running
    # process.
    allowed = {"eatnas_db/interpreter.py", "daemon/eatnas_daemon/mlflow/__main__.py"}
    found = {str(source.relative_to(ROOT)) for source in SOURCES if re.search(r"sys\.executable", source.read_text())}
    assert found == allowed


@pytest.mark.slow
def test_all_commands_work_next_to_files_named_like_modules(work, tmp_path):
    environment = {**os.environ, "EATNAS_HOME": str(tmp_path / "home"), "CUDA_VISIBLE_DEVICES": ""}
    (work / "spec.yaml").write_text(SPEC)

    def eatnas(*arguments):
        command = [sys.executable, "-m", "eatnas_cli", *arguments]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "imported").exists(), (arguments, (tmp_path / "imported").read_text())
        return done.stdout

    eatnas("init")
    eatnas("data", "prepare", "digits")
    eatnas("search", "create", "spec.yaml")
    eatnas("daemon", "start", "--slots", "1")
    eatnas("run", "tiny")  # while a daemon runs, this command only watches
    eatnas("daemon", "stop")
    eatnas("report", "tiny", "-o", str(tmp_path / "report.html"))
    eatnas("doctor")
