"""The example package with an operator and a space: its searches survive kills, and queries do not need the package."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from support.command_server import CommandServer
from support.installing import install_package
from support.plugin_homes import PluginHome
from support.shared_folders import make_once
from support.waiting import eventually

EXAMPLE = Path(__file__).parents[2] / "examples/plugins/operator"
SPEC: dict[str, Any] = {
    "name": "ghosts",
    "space": "ghost-tiny",
    "data": {"name": "digits", "train_images": 64, "validation_images": 64},
    "training": {"epochs": 1, "batch_size": 64, "augment": "none"},
    "evolution": {"population": 3, "tournament": 2, "lag": 2},
    "inheritance": {"weights": "inherited"},
    "budget": {"candidates": 6},
    "reevaluation": {"top": 0},
}
CELLS = {**SPEC, "name": "cells", "space": "nasbench201-tiny", "budget": {"candidates": 5}}
READS = [
    "query best more",
    "query lineage more",
    "query primitives more",
    "query fingerprint more",
    "search show more",
    "candidate show 1",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the installed example."""
    made = make_once(
        tmp_path_factory,
        "operator",
        lambda folder: install_package(EXAMPLE, folder / "site", folder / "source"),
    )
    return made / "site"


def test_example_has_at_most_forty_lines() -> None:
    files = [*EXAMPLE.glob("eatnas_ghost/*.py"), EXAMPLE / "pyproject.toml"]
    assert len(files) == 3
    assert sum(len(file.read_text().splitlines()) for file in files) <= 40


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_search_with_a_plugin_survives_a_kill_and_an_uninstallation(
    tmp_path: Path, site: Path, command_server: CommandServer
) -> None:
    site = shutil.copytree(site, tmp_path / "site")
    home, other = (PluginHome(tmp_path / name, site, command_server) for name in ("first", "second"))
    home.create(SPEC)
    shutil.copytree(home.folder, other.folder, dirs_exist_ok=True)
    process = home.start("run ghosts --slots 1")
    eventually(home.count_scored)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    home.run("run ghosts --slots 1")
    other.run("run ghosts --slots 1")
    fingerprints = [one.run("query fingerprint ghosts") for one in (home, other)]
    assert fingerprints[0] == fingerprints[1]

    large = {**SPEC, "name": "more", "seed": 1, "budget": {"candidates": 4}}
    home.create(large, "transfer ghosts")
    home.run("run more --slots 1")
    report = f"report more -o {tmp_path}/report.html --force"
    reads = [*READS, "query primitives ghosts"]
    answers = home.run_all([*reads, report])
    del answers[report]
    assert "ghost" in answers["query primitives ghosts"]

    shutil.move(site, tmp_path / "uninstalled")
    site.mkdir()
    again = home.run_all([*reads, report])
    assert {line: again[line] for line in reads} == answers
    message = home.run(f"search create {home.folder}/ghosts.yaml --set name=again", status=1)
    assert "unknown space 'ghost-tiny'" in message
    assert len(message.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_cells_are_searched_like_blocks(tmp_path: Path, site: Path, command_server: CommandServer) -> None:
    home, other = (PluginHome(tmp_path / name, site, command_server) for name in ("first", "second"))
    home.create(CELLS)
    shutil.copytree(home.folder, other.folder, dirs_exist_ok=True)
    home.run("run cells --slots 2")
    other.run("run cells --slots 1")
    fingerprints = [one.run("query fingerprint cells") for one in (home, other)]
    assert fingerprints[0] == fingerprints[1]
    guided = {**CELLS, "name": "more", "evolution": {**CELLS["evolution"], "births": "guided"}}
    home.create(guided, "transfer cells")
    home.run("run more --slots 1")
    home.run(f"export more --format safetensors -o {tmp_path}/model")
    assert "EAT-NAS" in home.run(f"export more --format python -o {tmp_path}/module", status=1)
    answers = home.run_all([*READS, f"report more -o {tmp_path}/report.html"])
    assert "nor_conv_3x3" in answers["query primitives more"]
