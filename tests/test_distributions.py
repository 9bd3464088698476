"""The wheels of `eatnas-db-core` and `eatnas-db` work in a new environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from eatnas_db.distributions import CORE, INSTALLED_BY, TRAINING, WHOLE, explain_missing_module, require_module
from support.recorded_search import make_record
from support.shared_folders import make_once

ROOT = Path(__file__).parents[1]
CORE_MEGABYTES = 100
# The time limit is long, because the first of these tests builds the wheels and installs an environment.
pytestmark = pytest.mark.timeout(900)
QUERIES = [
    ["query", "best", "small"],
    ["query", "lineage", "small"],
    ["query", "population", "small"],
    ["query", "pareto", "small"],
    ["query", "quality", "small"],
    ["query", "failures", "small"],
    ["query", "sql", "SELECT name, born FROM searches"],
    ["candidate", "show", "3"],
    ["search", "list"],
    ["search", "show", "small"],
    ["daemon", "status"],
]
NEEDS_MORE = [
    (["daemon", "start"], TRAINING),
    (["run", "small"], TRAINING),
    (["data", "list"], TRAINING),
    (["mlflow", "sync"], "mlflow"),
    (["mlflow", "ui"], "mlflow"),
    (["report", "small", "-o", "report.html"], "plotly"),
    (["serve", "--port", "0"], "starlette"),
    (["query", "quality", "small", "--picture", "quality.png"], "matplotlib"),
]


def configuration(distribution: str | None = None) -> dict[str, Any]:
    folder = ROOT if distribution is None else ROOT / "distributions" / distribution
    return tomllib.loads((folder / "pyproject.toml").read_text())


def test_both_distributions_together_are_the_source_tree() -> None:
    root, core, whole = configuration(), configuration(CORE), configuration(WHOLE)
    packages = [part["tool"]["setuptools"]["packages"] for part in (core, whole)]
    assert sorted(packages[0] + packages[1]) == sorted(root["tool"]["setuptools"]["packages"])
    dependencies = {*core["project"]["dependencies"], *whole["project"]["dependencies"]}
    own = {line for line in dependencies if line.startswith(CORE)}
    extras = core["project"]["optional-dependencies"]
    extra = {*extras["report"], *extras["serve"]}
    assert dependencies - own | extra == set(root["project"]["dependencies"])
    assert set(whole["project"]["optional-dependencies"]) | {"docs", "dev"} == set(
        root["project"]["optional-dependencies"]
    )
    assert core["tool"]["setuptools"]["package-data"] == root["tool"]["setuptools"]["package-data"]


def test_all_distributions_have_one_version() -> None:
    parts = (configuration(), configuration(CORE), configuration(WHOLE))
    (number,) = {part["project"]["version"] for part in parts}
    assert f"{CORE}[report,serve]=={number}" in parts[2]["project"]["dependencies"]


@pytest.mark.parametrize("distribution", [CORE, WHOLE])
def test_package_folders_are_those_of_the_source_tree(distribution: str) -> None:
    root = configuration()["tool"]["setuptools"]["package-dir"]
    for package, folder in configuration(distribution)["tool"]["setuptools"]["package-dir"].items():
        assert folder == f"../../{root.get(package, package)}"


@pytest.mark.parametrize(("module", "explained"), [("torch.nn", True), ("mlflow", True), ("unknown_module", False)])
def test_missing_dependency_names_its_requirement(module: str, explained: bool) -> None:
    error = explain_missing_module(ModuleNotFoundError(name=module))
    assert (error is not None) == explained
    assert error is None or f"pip install '{INSTALLED_BY[module.partition('.')[0]]}'" in str(error)


def test_module_that_is_installed_is_accepted() -> None:
    for module in INSTALLED_BY.keys() - {"ray"}:  # the development tools do not include Ray
        require_module(module)


@dataclass(frozen=True)
class Environment:
    """A virtual environment with `eatnas-db-core[postgres]` installed from its wheel."""

    folder: Path
    wheels: Path

    def pip(self, *arguments: str) -> None:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        python = ["--python", str(self.folder / "bin" / "python")]
        subprocess.run([*pip, *python, "install", "--find-links", str(self.wheels), *arguments], check=True)

    def run(self, url: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        # Start the script with this Python, because its first line may name the Python of the environment that was
        # copied.
        program = [str(self.folder / "bin" / name) for name in ("python", "eatnas-db")]
        command = [*program, "--home", str(cwd), "--db", url, *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)

    @property
    def megabytes(self) -> float:
        files = [file for file in self.folder.rglob("*") if file.is_file() and not file.is_symlink()]
        return sum(file.stat().st_size for file in files) / 1e6


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with both wheels, built from a copy of the sources."""

    def make(folder: Path) -> None:
        sources = folder / "sources"
        skipped = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        for name in ("eatnas_db", "daemon", "cli", "migrations", "distributions"):
            shutil.copytree(ROOT / name, sources / name, ignore=skipped)
        for name in (CORE, WHOLE):
            command = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-build-isolation", "--no-deps"]
            subprocess.run([*command, "--wheel-dir", folder, sources / "distributions" / name], check=True)

    return make_once(tmp_path_factory, "wheels", make)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Environment:
    def make(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        Environment(folder, wheels).pip(f"{CORE}[postgres]")

    return Environment(make_once(tmp_path_factory, "core", make), wheels)


def strip_ages(text: str) -> str:
    """Remove times and ages, because they differ between two runs of a command."""
    return re.sub(r'"[a-z_]*(seconds|at|age)": [0-9.e+-]+', "", text)


@pytest.mark.slow
def test_core_gives_the_same_answers_as_the_whole(core: Environment, tmp_path: Path, postgres_url: str) -> None:
    for url, queries in ((f"sqlite:///{tmp_path / 'eatnas.db'}", QUERIES), (postgres_url, QUERIES[:3])):
        make_record(tmp_path, lambda _, url=url: url)
        for query in queries:
            done = core.run(url, *query, "--format", "json", cwd=tmp_path)
            whole = subprocess.run(
                [sys.executable, "-m", "eatnas_cli", "--home", tmp_path, "--db", url, *query, "--format", "json"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, ""), query
            assert strip_ages(done.stdout) == strip_ages(whole.stdout), query


@pytest.mark.slow
def test_core_names_the_package_that_a_command_needs(core: Environment, tmp_path: Path) -> None:
    record = make_record(tmp_path / "home", lambda folder: f"sqlite:///{folder / 'eatnas.db'}", births=10)
    for arguments, module in NEEDS_MORE:
        done = core.run(record.settings.database_url, *arguments, cwd=tmp_path)
        assert done.returncode == 1, arguments
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert f"pip install '{INSTALLED_BY[module]}'" in done.stderr
    assert core.run(record.settings.database_url, "--version", cwd=tmp_path).stdout.split() == [CORE, version(WHOLE)]


@pytest.mark.slow
def test_core_fits_in_a_hundred_megabytes(core: Environment) -> None:
    installed = {folder.name for folder in (core.folder / "lib").glob("python*/site-packages/*")}
    assert not installed & {"torch", "mlflow", "numpy", "scipy", "pandas"}
    assert core.megabytes <= CORE_MEGABYTES


@pytest.mark.slow
def test_whole_adds_the_training_to_core(core: Environment, tmp_path: Path) -> None:
    whole = Environment(shutil.copytree(core.folder, tmp_path / "whole", symlinks=True), core.wheels)
    whole.pip("--no-deps", WHOLE)
    (site,) = (whole.folder / "lib").glob("python*/site-packages")
    # Use this interpreter's other dependencies, because their installation would take minutes.
    (site / "others.pth").write_text("\n".join(entry for entry in sys.path if entry.endswith("site-packages")))
    done = whole.run(f"sqlite:///{tmp_path / 'eatnas.db'}", "data", "list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout
