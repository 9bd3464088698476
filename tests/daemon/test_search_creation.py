"""A program creates searches for callers that do not use the command line."""

import json
import os
import subprocess
import sys

import pytest

from eatnas_db.database.engine import create_engine_for, read_connection
from eatnas_db.queries.searches import get_search, list_searches
from eatnas_migrations import commands

SPEC = {
    "name": "tiny",
    "space": "eatnas-tiny",
    "data": {"name": "digits", "train_images": 64, "validation_images": 64},
    "training": {"epochs": 1},
    "evolution": {"population": 16, "tournament": 2},
    "budget": {"candidates": 20},
}


@pytest.fixture
def url(tmp_path):
    url = f"sqlite:///{tmp_path / 'eatnas.db'}"
    engine = create_engine_for(url)
    commands.upgrade(engine)
    engine.dispose()
    return url


@pytest.fixture
def create(url, tmp_path):
    def run(spec, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "eatnas_daemon.search_creation", *arguments],
            input=json.dumps(spec),
            env={**os.environ, "EATNAS_HOME": str(tmp_path), "EATNAS_DB_URL": url, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.slow
def test_program_creates_search_and_prints_its_id_and_name(create, url):
    done = create(SPEC, "--slots", "6")
    assert done.returncode == 0, done.stderr
    created = json.loads(done.stdout)
    with read_connection(url) as connection:
        row = get_search(connection, "tiny")
    assert created == {"id": row.id, "name": "tiny"}
    assert row.lag == 12
    assert row.born > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"training": {"epoch": 1}}, (), "did you mean epochs?"),
        ({"data": {"name": "digits", "train_images": 100_000}}, (), "exceed"),
        ({}, ("--from", "nothing"), "nothing"),
        ({}, ("nowhere.yaml",), "nowhere.yaml: No such file or directory"),
        ({}, ("/",), "/: Is a directory"),
    ],
)
def test_program_prints_error_and_creates_nothing(create, url, change, arguments, message):
    done = create(SPEC | change, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Errno" not in done.stderr
    assert "Traceback" not in done.stderr
    with read_connection(url) as connection:
        assert not list_searches(connection)
