"""The structure of the code: packages, imports, sizes, names, and the links between pages."""

import json
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
SOURCE_ROOTS = ("eatnas_db", "daemon", "cli", "migrations")
CLI_NEVER_LOADS = ("torch", "mlflow", "alembic", "pydantic", "sqlalchemy")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MODULES = sorted(module for top in SOURCE_ROOTS for module in (ROOT / top).rglob("*.py"))


def folder_of(package: str) -> Path:
    top, *rest = package.split(".")
    return ROOT.joinpath(FOLDERS.get(top, top), *rest)


def package_of(folder: Path) -> str:
    for top, root in FOLDERS.items():
        if folder.is_relative_to(ROOT / root):
            return ".".join([top, *folder.relative_to(ROOT / root).parts])
    return ".".join(folder.relative_to(ROOT).parts)


def loaded_by(module: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after importing `module`."""
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_only_the_command_line_starts_the_command_line():
    below = [module for module in MODULES if not module.is_relative_to(ROOT / "cli")]
    assert [str(module) for module in below if "eatnas_cli" in module.read_text()] == []


def test_the_packages_shipped_are_the_folders_that_exist():
    inits = [init.parent for top in SOURCE_ROOTS for init in (ROOT / top).rglob("__init__.py")]
    assert sorted(map(package_of, inits)) == sorted(PACKAGES)


def test_every_folder_with_modules_is_a_package():
    assert {module.parent for module in MODULES} == {folder_of(package) for package in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_nothing_by_itself(package):
    source = (folder_of(package) / "__init__.py").read_text()
    # Only two packages contain code. `eatnas_db`, for example, imports `load_model` on first use.
    assert source == "" or (
        package in ("eatnas_db", "eatnas_db.testing")
        and not re.search("^(import|from)(?! typing)", source, re.MULTILINE)
    )


def test_the_package_loads_nothing_heavy():
    assert not loaded_by("eatnas_db") & {*CLI_NEVER_LOADS, "numpy"}


def test_the_domain_loads_nothing_heavy():
    modules = sorted(path.stem for path in (ROOT / "eatnas_db" / "domain").glob("[!_]*.py"))
    heavy = {"sqlalchemy", "torch", "mlflow", "numpy", "alembic", "typer", "ruamel.yaml"}
    plain = [module for module in modules if not module.startswith("spec")]
    assert first_to_load(heavy | {"pydantic"}, plain) == {}
    assert first_to_load(heavy, modules) == {}


def first_to_load(unwanted: set[str], modules: list[str]) -> dict[str, list[str]]:
    """Return the unwanted modules that a fresh interpreter loads while it imports `modules`."""
    code = """
import importlib, json, sys
unwanted, modules = map(json.loads, sys.argv[1:])
found = {}
for module in modules:
    before = set(sys.modules)
    importlib.import_module(f"eatnas_db.domain.{module}")
    if loaded := sorted((set(sys.modules) - before) & set(unwanted)):
        found[module] = loaded
print(json.dumps(found))
"""
    arguments = [json.dumps(sorted(unwanted)), json.dumps(modules)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_command_line_starts_without_anything_heavy():
    assert not loaded_by("eatnas_cli.app") & set(CLI_NEVER_LOADS)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_page_is_linked_from_the_index(page):
    assert page.name == "index.md" or f"]({page.name})" in (ROOT / "docs/index.md").read_text()


@pytest.mark.parametrize(
    "page", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_every_link_has_a_target(page):
    for link in LINK.findall(page.read_text()):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return a folder with an installed wheel that was built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCE_ROOTS:
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, sources], check=True)
    (built,) = folder.glob("*.whl")
    target = folder / "target"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, built], check=True)
    return target


@pytest.mark.slow
def test_the_wheel_holds_all_packages(wheel, tmp_path):
    code = "import sys; [print(sys.modules[n].__file__) for n in sys.argv[1:] if __import__(n)]"
    done = subprocess.run(
        [sys.executable, "-c", code, *PACKAGES],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
    )
    assert [Path(line).is_relative_to(wheel) for line in done.stdout.split()] == [True] * len(PACKAGES)
    assert (wheel / "eatnas_db/py.typed").exists()
    assert (wheel / "eatnas_migrations/script.py.mako").exists()
    assert (wheel / "eatnas_report/templates/report.html.jinja").exists()


@pytest.mark.slow
def test_the_command_line_of_the_wheel_starts(wheel, tmp_path):
    command = [sys.executable, "-m", "eatnas_cli", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "search" in done.stdout
