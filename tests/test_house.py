"""The house itself: what is shipped, who imports what, and whether the documentation hangs together."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = CONFIGURATION["tool"]["setuptools"]["packages"]
FOLDERS = CONFIGURATION["tool"]["setuptools"]["package-dir"]
CLI_NEVER_LOADS = ("torch", "mlflow", "alembic", "pydantic", "sqlalchemy")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def folder_of(package: str) -> Path:
    top, *rest = package.split(".")
    return ROOT.joinpath(FOLDERS.get(top, top), *rest)


def package_of(folder: Path) -> str:
    for top, root in FOLDERS.items():
        if folder.is_relative_to(ROOT / root):
            return ".".join([top, *folder.relative_to(ROOT / root).parts])
    return ".".join(folder.relative_to(ROOT).parts)


def loaded_by(module: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after one import."""
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_packages_shipped_are_the_folders_there_are():
    inits = [
        init.parent
        for top in ("eatnas_db", "daemon", "cli", "migrations")
        for init in (ROOT / top).rglob("__init__.py")
    ]
    assert sorted(map(package_of, inits)) == sorted(PACKAGES)


def test_no_folder_with_modules_is_forgotten():
    folders = {
        module.parent for top in ("eatnas_db", "daemon", "cli", "migrations") for module in (ROOT / top).rglob("*.py")
    }
    assert folders == {folder_of(package) for package in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_nothing_by_itself(package):
    assert (folder_of(package) / "__init__.py").read_text() == ""


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "eatnas_db" / "domain").glob("[!_]*.py")))
def test_the_domain_loads_nothing_heavy(module):
    loaded = loaded_by(f"eatnas_db.domain.{module}")
    assert not loaded & {"sqlalchemy", "torch", "mlflow", "numpy", "alembic", "typer", "yaml"}
    assert module == "spec" or "pydantic" not in loaded


def test_the_command_line_starts_without_anything_heavy():
    assert not loaded_by("eatnas_cli.app") & set(CLI_NEVER_LOADS)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_page_is_linked_from_the_index(page):
    assert page.name == "index.md" or f"]({page.name})" in (ROOT / "docs/index.md").read_text()


@pytest.mark.parametrize(
    "page", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.slow
def test_the_wheel_holds_all_packages_and_its_command_line_starts(tmp_path):
    sources = tmp_path / "sources"
    sources.mkdir()
    for name in ("eatnas_db", "daemon", "cli", "migrations"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, sources], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "target"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)

    away = tmp_path / "away"
    away.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(target)}
    code = "import sys; [print(sys.modules[n].__file__) for n in sys.argv[1:] if __import__(n)]"
    done = subprocess.run(
        [sys.executable, "-c", code, *PACKAGES],
        capture_output=True,
        text=True,
        check=True,
        cwd=away,
        env=environment,
    )
    assert [Path(line).is_relative_to(target) for line in done.stdout.split()] == [True] * len(PACKAGES)
    assert (target / "eatnas_db/py.typed").exists()
    if (ROOT / "migrations/script.py.mako").exists():
        assert (target / "eatnas_migrations/script.py.mako").exists()
    if (ROOT / "cli/eatnas_cli/__main__.py").exists():
        command = [sys.executable, "-m", "eatnas_cli", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=away, env=environment)
        assert done.returncode == 0, done.stderr
        assert "search" in done.stdout
