"""The example package of an operator and a space: installed, searched, killed, transferred, queried, uninstalled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/plugins/operator"
SPEC = {
    "name": "ghosts",
    "space": "ghost-tiny",
    "data": {"name": "digits", "train_images": 128, "validation_images": 64},
    "training": {"epochs": 1, "batch_size": 64, "augment": "none"},
    "evolution": {"population": 4, "tournament": 2, "lag": 4},
    "inheritance": {"weights": "inherited"},
    "budget": {"candidates": 8},
    "reevaluation": {"top": 0},
}
CELLS = {**SPEC, "name": "cells", "space": "nasbench201-tiny", "budget": {"candidates": 6}}
READS = (
    "query best {0}",
    "query lineage {0}",
    "query primitives {0}",
    "query fingerprint {0}",
    "search show {0}",
    "candidate show 1",
)


class Home:
    """A home in an environment with its own folder of installed packages."""

    def __init__(self, folder: Path, site: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "EATNAS_HOME": str(folder / "home"), "PYTHONPATH": str(site)}
        self.environment["EATNAS_MLFLOW"] = "off"
        folder.mkdir()
        self.run("init")

    def start(self, line: str, **options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "eatnas_cli", *line.split()]
        return subprocess.Popen(
            command, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )

    def run(self, line: str, *, status: int = 0) -> str:
        with self.start(line) as process:
            output, errors = process.communicate()
        assert process.returncode == status, (line, output, errors)
        assert "Traceback" not in errors, errors
        return output if status == 0 else errors

    def create(self, spec: dict, command: str = "search create") -> None:
        file = self.folder / f"{spec['name']}.yaml"
        file.write_text(json.dumps(spec))
        self.run(f"{command} {file}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed example."""
    site, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / "operator"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return site


def test_example_has_at_most_forty_lines() -> None:
    files = [*EXAMPLE.glob("eatnas_ghost/*.py"), EXAMPLE / "pyproject.toml"]
    assert len(files) == 3
    assert sum(len(file.read_text().splitlines()) for file in files) <= 40


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_search_with_a_plugin_survives_a_kill_and_an_uninstallation(tmp_path: Path, site: Path) -> None:
    home, other = Home(tmp_path / "first", site), Home(tmp_path / "second", site)
    home.create(SPEC)
    process = home.start("run ghosts --slots 1", start_new_session=True)
    _wait_for_a_score(home)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    home.run("run ghosts --slots 2")
    other.create(SPEC)
    other.run("run ghosts --slots 1")
    fingerprints = [one.run("query fingerprint ghosts --format json") for one in (home, other)]
    assert fingerprints[0] == fingerprints[1]

    large = {**SPEC, "name": "more", "seed": 1, "budget": {"candidates": 4}}
    home.create(large, "transfer ghosts")
    home.run("run more --slots 2")
    home.run(f"export more --format safetensors -o {tmp_path}/model")
    report = tmp_path / "report.html"
    home.run(f"report more -o {report}")
    answers = {line: home.run(line.format("more")) for line in READS}
    assert "ghost" in answers["query primitives {0}"]

    shutil.move(site, tmp_path / "uninstalled")
    site.mkdir()
    for line, answer in answers.items():
        assert home.run(line.format("more")) == answer, line
    home.run(f"report more -o {report} --force")
    message = home.run(f"search create {tmp_path}/first/ghosts.yaml --set name=again", status=1)
    assert "unknown space 'ghost-tiny'" in message
    assert len(message.strip().splitlines()) == 1
    shutil.rmtree(site)
    shutil.move(tmp_path / "uninstalled", site)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_cells_are_searched_like_blocks(tmp_path: Path, site: Path) -> None:
    home, other = Home(tmp_path / "first", site), Home(tmp_path / "second", site)
    for one, slots in ((home, 2), (other, 1)):
        one.create(CELLS)
        one.run(f"run cells --slots {slots}")
    fingerprints = [one.run("query fingerprint cells --format json") for one in (home, other)]
    assert fingerprints[0] == fingerprints[1]
    guided = {**CELLS, "name": "more", "evolution": {**CELLS["evolution"], "births": "guided"}}
    home.create(guided, "transfer cells")
    home.run("run more --slots 2")
    home.run(f"export more --format safetensors -o {tmp_path}/model")
    assert "EAT-NAS" in home.run(f"export more --format python -o {tmp_path}/module", status=1)
    home.run(f"report more -o {tmp_path}/report.html")
    answers = {line: home.run(line.format("more")) for line in READS}
    assert "nor_conv_3x3" in answers["query primitives {0}"]


def _wait_for_a_score(home: Home) -> None:
    for _ in range(600):
        if "scored" in home.run("query events"):
            return
        time.sleep(0.1)
    raise AssertionError("no candidate was scored")
