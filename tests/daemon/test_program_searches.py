"""A user's own program trains the candidates of searches, in real worker processes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from eatnas_cli.query.app import app as query_app
from eatnas_cli.search.status import app as search_app
from eatnas_daemon.search_creation import create_search_from_spec
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import TRAINING_PROGRAM, Launcher
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import PluginError
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.hosts import worker
from eatnas_db.schema.trainings import attempt, provenance, score
from eatnas_db.settings import Settings, load_settings
from support.commands import run_command
from support.empty_records import create_empty_record
from support.plugin_packages import install_package

SOURCE = """
def train(network, task, recipe, report):
    state = report.resume() or 0.0
    depth = sum(block.depth for block in network.architecture.blocks)
    for epoch in range(report.finished_epochs, recipe.epochs):
        state += depth / recipe.options["divisor"]
        print("epoch", epoch)
        report.epoch(epoch, perplexity=100 / (1 + state))
        report.checkpoint(state)
"""
SPEC = {
    "name": "s",
    "space": "eatnas-tiny",
    "data": {"name": "none"},
    "training": {"program": "words_program:train", "epochs": 2, "options": {"divisor": 10}},
    "objective": {"metric": "perplexity", "direction": "minimize"},
    "evolution": {"population": 3, "tournament": 2, "lag": 2},
    "budget": {"candidates": 6},
    "reevaluation": {"top": 0},
}


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """Return a folder of installed packages that contains the program."""
    install_package(tmp_path / "site", "words_program", SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return tmp_path / "site"


def create(folder: Path, **changes: object) -> Settings:
    settings = load_settings({}, str(folder))
    folder.mkdir()
    create_empty_record(settings.database_url).dispose()
    create_search_from_spec(settings, {**SPEC, **changes}, slots=2)
    return settings


def supervise(settings: Settings, slots: int, on_tick=lambda _: None) -> None:
    launcher = Launcher(settings.logs, TRAINING_PROGRAM)
    engine = open_record(settings.database_url, busy_seconds=30)
    Supervisor(engine, settings, launcher, slots=slots, host_name="here", only="s").run(on_tick)


def test_missing_program_is_reported_in_one_line_at_creation(tmp_path, site):
    with pytest.raises(PluginError, match="the package not_there is not installed"):
        create(tmp_path / "home", training={"program": "not_there:train"})
    with pytest.raises(PluginError, match=r"words_program:trian cannot be loaded \(AttributeError"):
        create(tmp_path / "other", training={"program": "words_program:trian"})


@pytest.mark.slow
def test_search_by_a_program_is_recorded_like_any_other(tmp_path, site):
    prints = set()
    for slots in (1, 2):
        settings = create(tmp_path / str(slots))
        supervise(settings, slots)
        engine = open_record(settings.database_url)
        with read_transaction(engine) as connection:
            prints.add(get_fingerprint(connection, 1).sha256)
            scores = connection.execute(select(score.c.metric, score.c.value)).all()
            recipes = connection.execute(select(provenance.c.recipe)).scalars().all()
    assert len(prints) == 1
    assert {metric for metric, _ in scores} == {"perplexity"}
    assert {len(recipe["program"]["source_digest"]) for recipe in recipes} == {64}
    assert list(list_violations(engine, settings.artifacts)) == []
    rows = json.loads(run_command(query_app, settings, "best", "s", "--format", "json"))
    assert [row["perplexity"] for row in rows] == sorted(value for _, value in scores)
    assert "epoch 0" in (settings.logs / "candidate-1.log").read_text()


@pytest.mark.slow
def test_search_waits_until_the_recorded_program_is_back(tmp_path, site):
    settings = create(tmp_path / "home")
    file, seen = site / "words_program" / "__init__.py", []
    original = file.read_text()
    file.write_text(original + "# changed\n")
    deadline = time.monotonic() + 120

    def on_tick(supervisor: Supervisor) -> None:
        if not seen and time.monotonic() < deadline:
            shown = json.loads(run_command(search_app, settings, "show", "s", "--format", "json"))
            if shown["holds"]:
                seen.append(shown["holds"][0]["reason"])
                file.write_text(original)

    supervise(settings, 1, on_tick)
    assert seen[0].startswith("words_program:train has changed: the record was made with version 1.0")
    with read_transaction(open_record(settings.database_url)) as connection:
        assert get_search(connection, "s").scored == 6
        states = connection.execute(select(candidate.c.state).distinct()).scalars().all()
        outcomes = set(connection.execute(select(attempt.c.outcome)).scalars())
    assert states == ["scored"]
    assert outcomes == {"scored", "released"}


@pytest.mark.slow
def test_worker_is_replaced_after_a_program_leaves_a_thread(tmp_path, site):
    # At its exit, an interpreter waits for this thread. The worker must exit anyway, or the supervisor would wait a
    # minute.
    start = "    __import__('threading').Thread(target=__import__('time').sleep, args=(10**6,), name='own').start()\n"
    install_package(site, "leaving_program", SOURCE.replace("    state = report", f"{start}    state = report"))
    training = {**SPEC["training"], "program": "leaving_program:train"}
    settings = create(tmp_path / "home", training=training, budget={"candidates": 2})
    supervise(settings, 1)
    with read_transaction(open_record(settings.database_url)) as connection:
        assert set(connection.execute(select(attempt.c.outcome)).scalars()) == {"scored"}
        reasons = connection.execute(select(worker.c.ending).order_by(worker.c.id)).scalars().all()
    assert reasons[0] == "replaced by a fresh worker: a training program left behind 1 thread (own)"
    assert "the program left behind 1 thread (own)" in (settings.logs / "candidate-1.log").read_text()
