"""A search on the example data set is killed, waits while its package is missing, resumes, and is exported."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.schema.trainings import epoch
from eatnas_db.settings import load_settings
from support.installing import install_package

pytestmark = pytest.mark.usefixtures("without_mlflow")

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugins" / "dataset"
QUERIES = [
    *(["query", name, "shapes"] for name in ("best", "population", "quality", "primitives", "mutations", "pareto")),
    *(["query", name, "shapes"] for name in ("utilisation", "events", "failures", "fingerprint")),
    *(["query", name, "1"] for name in ("lineage", "descendants")),
    ["query", "sql", "SELECT count(*) FROM candidates"],
    ["search", "show", "shapes"],
    ["search", "list"],
    ["candidate", "show", "1"],
    ["db", "check"],
]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Install the example into a new folder and return the folder."""
    install_package(EXAMPLE, tmp_path / "site", tmp_path / "work")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return tmp_path / "site"


def count_epochs(home):
    engine = open_record(load_settings({}, str(home)).database_url)
    with read_transaction(engine) as connection:
        count = connection.execute(select(func.count()).select_from(epoch)).scalar_one()
    engine.dispose()
    return count


def fingerprint(eatnas, home):
    (row,) = json.loads(eatnas("query", "fingerprint", "shapes", "--format", "json", at=home))
    return row["sha256"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_example_is_searched_killed_uninstalled_resumed_and_exported(
    tmp_path, home, record, site, eatnas, eatnas_within, eatnas_started, until
):
    prepared = json.loads(eatnas("data", "prepare", "shapes", "--stratify", "--format", "json"))
    assert (prepared["classes"], prepared["train_images"], prepared["test_images"]) == (3, 240, 100)
    spec = str(EXAMPLE / "search.yaml")
    eatnas("search", "create", spec)
    undisturbed = shutil.copytree(home, tmp_path / "undisturbed")
    eatnas("run", "shapes", "--slots", "2", at=undisturbed)

    process = eatnas_started("run", "shapes", "--slots", "1")
    until(lambda: count_epochs(home) >= 1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.move(site, tmp_path / "uninstalled")
    for query in QUERIES:
        assert eatnas_within(*query)
    assert "eatnas_shapes" not in eatnas_within("data", "list")
    for refused in (["data", "verify", "shapes"], ["search", "create", spec, "--set", "name=another"]):
        assert "unknown data set 'shapes'" in eatnas_within(*refused, expect=1).splitlines()[-1]
    process = eatnas_started("run", "shapes", "--slots", "1")
    until(lambda: "unknown data set 'shapes'" in eatnas_within("search", "show", "shapes"))
    shutil.move(tmp_path / "uninstalled", site)
    process.communicate()
    assert process.returncode == 0
    assert fingerprint(eatnas_within, home) == fingerprint(eatnas_within, undisturbed)

    shown = json.loads(eatnas_within("search", "show", "shapes", "--format", "json"))
    assert shown["data_digest"] == prepared["data_digest"]
    assert "the images of search 'shapes' are the same" in eatnas("data", "verify", "shapes")
    eatnas("transfer", "shapes", spec, "--set", "name=more", "--set", "budget.candidates=3")
    eatnas("run", "more", "--slots", "1")
    eatnas("report", "shapes", "--output", "report.html")
    eatnas("export", "shapes", "--output", "net.safetensors")
    Image.fromarray(np.full((20, 30), 200, np.uint8)).save(tmp_path / "white.png")
    predicted = json.loads(eatnas("predict", "net.safetensors", "white.png", "--format", "json"))
    assert {row["label"] for row in predicted} <= {"circle", "square", "triangle"}
