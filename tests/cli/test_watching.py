"""`run` and `search watch` while a daemon is running. The test itself holds the daemon's lock."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from eatnas_daemon.daemon_lock import find_record_user, hold_daemon_lock
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.states import DesiredState
from eatnas_db.schema.searches import search
from eatnas_db.searches.control import set_desired_state
from eatnas_db.settings import load_settings

pytestmark = pytest.mark.usefixtures("tiny", "without_mlflow")


@pytest.fixture
def settings(home):
    return load_settings({}, str(home))


@pytest.fixture
def change(settings):
    """Return two functions that change the record, as a daemon or another command does."""
    engine = open_record(settings.database_url)

    def wish(wanted):
        with transaction(engine) as connection:
            set_desired_state(connection, "tiny", wanted, time.time())

    def update(**values):
        with transaction(engine) as connection:
            connection.execute(search.update().values(**values))

    yield wish, update
    engine.dispose()


def watching(process):
    """Wait for the first line on stderr and on stdout. The command has then noticed the daemon and shown the search
    once.
    """
    return process.stderr.readline(), process.stdout.readline()


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--devices", "cpu"], ["--slots", "3", "--policy", "stay"]])
def test_run_next_to_a_daemon_names_its_unused_options(settings, tiny, eatnas_started, options):
    with hold_daemon_lock(settings.lock_file):
        process = eatnas_started("run", "tiny", *options)
        assert f"; {' '.join(options)} has no effect while that process runs\n" in process.stderr.readline()


@pytest.mark.slow
def test_run_only_watches_while_a_daemon_runs(settings, eatnas_started, change):
    _, update = change
    with hold_daemon_lock(settings.lock_file):
        process = eatnas_started("run", "tiny")
        output, shown = watching(process)
        assert output == f"a daemon (pid {os.getpid()}) is working on this record; watching the search\n"
        assert shown == "tiny  0/4  no score yet  running\n"
        update(settled=1)
        assert process.stdout.readline() == "tiny  1/4  no score yet  running\n"
        update(settled=2, born=4)
        assert process.stdout.readline() == "tiny  2/4  no score yet  running\n"
        update(settled=4, finished_at=time.time())
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out == "tiny  4/4  no score yet  finished\n"


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [DesiredState.PAUSED, DesiredState.CANCELLED])
def test_run_exits_with_three_after_pause_or_cancel(settings, eatnas_started, change, wanted):
    wish, _ = change
    with hold_daemon_lock(settings.lock_file):
        process = eatnas_started("run", "tiny")
        watching(process)
        wish(wanted)
        out, _ = process.communicate()
    assert process.returncode == 3
    assert out.splitlines()[-1].endswith(wanted)


@pytest.mark.slow
def test_run_exits_with_three_when_device_hours_are_spent(settings, eatnas_started, change):
    _, update = change
    with hold_daemon_lock(settings.lock_file):
        process = eatnas_started("run", "tiny")
        watching(process)
        update(settled=2, budget_device_seconds=10, device_seconds=11, finished_at=time.time())
        process.communicate()
    assert process.returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_signal_ends_a_watching_run_but_not_the_daemon(settings, eatnas_started, number, status):
    with hold_daemon_lock(settings.lock_file):
        process = eatnas_started("run", "tiny")
        watching(process)
        process.send_signal(number)
        _, err = process.communicate()
        assert find_record_user(settings.lock_file).process.pid == os.getpid()
    assert process.returncode == status
    assert "Traceback" not in err


@pytest.mark.slow
def test_finished_search_is_not_run_again(eatnas, change):
    wish, update = change
    wish(DesiredState.PAUSED)
    assert eatnas("run", "tiny", expect=3) == ""
    wish(DesiredState.RUN)
    update(settled=4, born=4, finished_at=time.time())
    assert "finished" in eatnas("run", "tiny")


def test_watch_shows_each_change_and_ends_with_the_search(settings, eatnas_started, change):
    wish, update = change
    process = eatnas_started("search", "watch", "tiny")
    assert process.stdout.readline() == "tiny  0/4  no score yet  waiting: no daemon\n"
    with hold_daemon_lock(settings.lock_file):
        assert process.stdout.readline().endswith("running\n")
        wish(DesiredState.PAUSED)
        assert process.stdout.readline().endswith("paused\n")
        wish(DesiredState.RUN)
        assert process.stdout.readline().endswith("running\n")
        update(finished_at=time.time())
        out, err = process.communicate()
    assert (process.returncode, out, err) == (0, "tiny  0/4  no score yet  finished\n", "")


def test_ctrl_c_ends_a_watch(eatnas_started):
    process = eatnas_started("search", "watch", "tiny")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "")


def test_watch_draws_a_bar_on_a_terminal(home, until):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "eatnas_cli", "--home", str(home), "search", "watch", "tiny"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = bytearray()
        until(lambda: shown.extend(os.read(ours, 4096)) or b"waiting: no daemon" in shown)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    os.close(ours)
    assert "━" in shown.decode(errors="replace")
    assert b"0/4" in shown


@pytest.mark.slow
def test_run_takes_over_when_the_daemon_ends(settings, eatnas, eatnas_started):
    with hold_daemon_lock(settings.lock_file):
        process = eatnas_started("run", "tiny", "--slots", "1")
        watching(process)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert out.splitlines()[-1].startswith("tiny  4/4  best ")
    assert "finished: done" in eatnas("query", "events", "tiny")
    assert "the search finished: done" in eatnas("daemon", "logs")
