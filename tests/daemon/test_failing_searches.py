"""Searches whose candidates all fail, and searches with relative paths."""

from pathlib import Path

import pytest

from eatnas_daemon import main as daemon
from eatnas_daemon.daemon_options import DaemonOptions
from eatnas_daemon.search_creation import create_search_from_spec
from eatnas_daemon.search_progress import ProgressPrinter
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.states import DesiredState
from eatnas_db.queries.events import list_events
from eatnas_db.queries.searches import get_search
from eatnas_db.searches.control import set_desired_state
from support.searches import SPEC

QUICK = Timeouts(tick=0.02, database=0.05)


def record_of(settings):
    with read_transaction(open_record(settings.database_url)) as connection:
        return get_search(connection, "s")


def test_equal_failures_in_a_row_pause_a_search(tmp_path, home, supervise, fast):
    settings = home(tmp_path / "home", budget__candidates=12, budget__equal_failures=4)
    program = (*fast, "--diverge")
    supervise(settings, program=program, timeouts=QUICK)
    row = record_of(settings)
    assert (row.status, row.settled) == (
        "paused: 4 births in a row failed for the same reason (diverged: the loss is nan in epoch 0); "
        "remove the cause, then run `eatnas-db search resume s`",
        row.streak_start,
    )
    assert 4 <= row.settled < 12
    with transaction(open_record(settings.database_url)) as connection:
        set_desired_state(connection, "s", DesiredState.RUN, 0.0)
    assert record_of(settings).status == "running"
    # Failures before the pause no longer count.
    supervise(settings, program=program, timeouts=QUICK)
    assert record_of(settings).settled >= row.settled + 4
    with read_transaction(open_record(settings.database_url)) as connection:
        pauses = list_events(connection, kind="paused")
    assert len(pauses) == 2
    assert pauses[0].words.startswith("the search was paused: 4 births in a row failed for the same reason (diverged: ")


def test_pause_after_a_single_failure_names_one_birth(tmp_path, home, supervise, fast):
    settings = home(tmp_path / "home", budget__candidates=6, budget__equal_failures=1)
    supervise(settings, program=(*fast, "--diverge"), timeouts=QUICK)
    assert record_of(settings).status.startswith("paused: a birth failed (diverged: the loss is nan in epoch 0); ")


def test_search_without_a_score_prints_the_last_failure(tmp_path, home, supervise, fast, capsys):
    settings = home(tmp_path / "home", budget__candidates=6)
    supervise(settings, program=(*fast, "--diverge"), timeouts=QUICK)
    printer = ProgressPrinter(open_record(settings.database_url), settings, "s")
    assert daemon.run_search(settings, "s", DaemonOptions(), printer) == daemon.FAILED
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "none of its candidates has a score; the last failure: diverged: the loss is nan in epoch 0" in text


@pytest.mark.parametrize("typed", ["../there/images", "~/images"])
def test_paths_of_a_spec_are_resolved_at_creation(tmp_path, home, monkeypatch, typed):
    there = tmp_path / "there"
    for number in range(40):
        write_image(there / "images" / f"class{number % 2}" / f"{number}.png", number)
    monkeypatch.chdir(there)
    monkeypatch.setenv("HOME", str(there))
    settings = home(tmp_path / "home")
    tree = {**SPEC, "name": "t", "data": {"name": "ImageFolder", "root": typed, "resolution": 8}}
    create_search_from_spec(settings, tree)
    with read_transaction(open_record(settings.database_url)) as connection:
        root = Path(get_search(connection, "t").spec["data"]["root"])
    assert root.is_absolute()
    assert root.samefile(there / "images")


def write_image(path, shade):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)
