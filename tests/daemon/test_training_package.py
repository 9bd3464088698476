"""A package with a training of the user's own: installed, searched, killed, resumed, transferred and removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugins" / "training"
SMALL = ("--set", "budget.candidates=6", "--set", "evolution.population=4", "--set", "reevaluation.top=0")


class Home:
    """A home, whose commands see the packages of a folder."""

    def __init__(self, folder: Path, packages: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "EATNAS_HOME": str(folder), "PYTHONPATH": str(packages)}
        self.environment["EATNAS_MLFLOW"] = "off"
        self("init")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "eatnas_cli", *arguments],
            env=self.environment,
            cwd=self.folder.parent,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, *arguments: str, status: int = 0) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=600)
        assert process.returncode == status, (arguments, out, err)
        return out if status == 0 else err


@pytest.mark.slow
def test_installed_training_is_searched_and_can_be_removed(tmp_path):
    packages = tmp_path / "packages"
    source = shutil.copytree(EXAMPLE, tmp_path / "source")
    install = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(packages))
    subprocess.run([sys.executable, "-m", "pip", *install, str(source)], check=True)
    spec = str(EXAMPLE / "words.yaml")
    one = Home(tmp_path / "one", packages)
    one("search", "create", spec, *SMALL)
    running = one.start("run", "words", "--slots", "1")
    assert running.stdout is not None
    for line in running.stdout:
        if "1/6" in line or "2/6" in line:
            running.kill()
            break
    running.communicate()
    one("run", "words", "--slots", "1")
    four = Home(tmp_path / "four", packages)
    four("search", "create", spec, *SMALL)
    four("run", "words", "--slots", "2")
    assert one("query", "fingerprint", "words") == four("query", "fingerprint", "words")
    four("transfer", "words", spec, "--set", "name=more", *SMALL)
    four("run", "more", "--slots", "2")
    before = four("query", "best", "words", "--format", "json")
    assert json.loads(before)[0]["perplexity"] < 20
    shutil.rmtree(packages)
    assert four("query", "best", "words", "--format", "json") == before
    for command in (("pareto", "words"), ("quality", "words"), ("lineage", "more"), ("failures", "words")):
        four("query", *command)
    four("candidate", "show", "1")
    four("report", "words", "--output", str(tmp_path / "words.html"))
    assert "lower perplexity and fewer mult-adds" in (tmp_path / "words.html").read_text()
    four("db", "check")
    assert "the package eatnas_words is not installed" in four("search", "show", "words")
    assert "the package eatnas_words is not installed" in four("search", "create", spec, "--set", "name=x", status=1)
