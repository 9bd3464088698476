"""The command reference is up to date, the site builds, and the commands of every page work."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.examples import copy_small_examples

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("*/*.md"))]
EXTENDING = ROOT / "docs/extending.md"
SMALLER = ("train_images: 300}", "train_images: 64, validation_images: 64}")
"""The data of the search in the page about plug-ins, and fewer images, because the test checks no result."""
BLOCK = re.compile(r"(?:<!-- not run: (.+) -->\n\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands_of(page):
    """Return the blocks of commands of a page in order, without the blocks that a test cannot run."""
    return [text for why, kind, text in BLOCK.findall(page.read_text()) if kind == "bash" and not why]


def test_command_reference_is_up_to_date():
    written = runpy.run_path(str(ROOT / "docs/generate.py"))["commands_page"]()
    stale = "docs/commands.md is stale; run `python docs/generate.py`"
    assert (ROOT / "docs/commands.md").read_text() == written, stale


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks_that_tests_run(page):
    text = page.read_text()
    # Commands must be in fenced blocks, because tests do not run commands in indented lines.
    outside = BLOCK.sub("", text)
    assert not re.findall(r"^    (?:\w+=\S+ )?(?:eatnas-db|python|pip) .*", outside, re.MULTILINE)
    fences = re.findall(r"^```(\w*)$", text, re.MULTILINE)
    assert set(fences[::2]) <= {"bash", "json", "python", "yaml", "text", "sql"}, "each block must name its language"
    if page.name != "python-api.md":  # test_api.py runs the examples of this page
        assert "python" not in fences


def test_page_about_plugins_shows_the_files_of_the_example():
    shown = dict(re.findall(r"^cat > ghost/(\S+) <<'END'\n(.*?)^END$", EXTENDING.read_text(), re.MULTILINE | re.DOTALL))
    assert len(shown) == 3
    assert shown == {name: (ROOT / "examples/plugins/operator" / name).read_text() for name in shown}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_has_its_place_in_the_site(page):
    assert str(page.relative_to(ROOT / "docs")) in (ROOT / "mkdocs.yml").read_text()


@pytest.mark.slow
def test_the_site_builds_and_no_link_is_broken(tmp_path):
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: pip install 'eatnas-db[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = (tmp_path / "site/index.html").read_text()
    # Links may lead to other sites, but scripts, styles and fonts must be part of the site.
    assert not re.findall(r'<(?:script|img)[^>]+src="https?:', built)
    assert not re.findall(r'<link[^>]+rel="stylesheet"[^>]+href="https?:', built)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_work_in_order(page, finished_digits, command_server, tmp_path):
    shutil.copytree(finished_digits, tmp_path / ".eatnas")
    copy_small_examples(tmp_path)
    scripts = tmp_path / "bin"
    scripts.mkdir()
    # Use the programs of this interpreter, independently of PATH.
    command_server.write_program(scripts)
    (scripts / "pip").write_text(f'#!/bin/sh\nexec {sys.executable} -m pip "$@"\n')
    (scripts / "pip").chmod(0o755)
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    if page.stem != "mlflow":
        environment["EATNAS_MLFLOW"] = "off"
    for name in ("EATNAS_HOME", "EATNAS_DB_URL"):
        environment.pop(name, None)
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
    try:
        for block in commands_of(page):
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.replace(*SMALLER)], **run)
            assert done.returncode == 0, (block, done.stderr)
            assert done.stdout, block
    finally:
        subprocess.run(["eatnas-db", "daemon", "stop", "--now"], **run)


def test_transcript_and_pictures_come_from_one_run():
    recorded = (ROOT / "docs/pictures/demo-fingerprint.txt").read_text().strip()
    shown = {
        line for page in (*PAGES, ROOT / "README.md") for line in re.findall(r"\b[0-9a-f]{64}\b", page.read_text())
    }
    assert shown == {recorded}
