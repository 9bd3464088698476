"""A search with the training function of a package is killed, resumed and transferred, and the package is removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from support.command_server import CommandServer
from support.installing import install_package
from support.plugin_homes import PluginHome
from support.waiting import eventually

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugins" / "training"
SMALL = "--set budget.candidates=5 --set evolution.population=3 --set evolution.lag=2 --set reevaluation.top=0"
BEST = "query best words --format json"
READS = [
    "query pareto words",
    "query quality words",
    "query lineage more",
    "query failures words",
    "candidate show 1",
    "db check",
]


@pytest.mark.slow
def test_installed_training_is_searched_and_can_be_removed(tmp_path: Path, command_server: CommandServer) -> None:
    packages = tmp_path / "packages"
    install_package(EXAMPLE, packages, tmp_path / "source")
    spec = EXAMPLE / "words.yaml"
    one, two = (PluginHome(tmp_path / name, packages, command_server) for name in ("one", "two"))
    one.run(f"search create {spec} {SMALL}")
    shutil.copytree(one.folder, two.folder, dirs_exist_ok=True)
    running = one.start("run words --slots 1")
    eventually(one.count_scored)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    one.run("run words --slots 1")
    two.run("run words --slots 2")
    assert one.run("query fingerprint words") == two.run("query fingerprint words")
    two.run(f"transfer words {spec} --set name=more {SMALL}")
    two.run("run more --slots 1")
    before = two.run(BEST)
    assert json.loads(before)[0]["perplexity"] < 20
    shutil.rmtree(packages)
    report = tmp_path / "words.html"
    show = "search show words"
    answers = two.run_all([BEST, *READS, f"report words --output {report}", show])
    assert answers[BEST] == before
    assert "lower perplexity and fewer mult-adds" in report.read_text()
    assert "the package eatnas_words is not installed" in answers[show]
    assert "the package eatnas_words is not installed" in two.run(f"search create {spec} --set name=x", status=1)
