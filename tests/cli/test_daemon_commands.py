"""The commands that control the daemon, with a real daemon for the commands that need one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from eatnas_daemon.daemon_lock import hold_daemon_lock
from eatnas_daemon.event_log import MAX_BYTES, open_log
from eatnas_daemon.lock_holder import current_process
from eatnas_db import hosts
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.settings import load_settings


@pytest.fixture
def settings(home):
    return load_settings({}, str(home))


@pytest.mark.slow
def test_status_of_all_hosts_shows_why_devices_wait(record, eatnas, settings):
    with transaction(open_record(settings.database_url)) as connection:
        there = hosts.register_host(connection, "there", 0.0)
        seen = hosts.DeviceReport("GPU-1", "cuda", "NVIDIA Pretended", "bob computes on it", 2**30, 24 * 2**30)
        hosts.record_device_reports(connection, there, [seen], 0.0)
    with hold_daemon_lock(settings.lock_file):
        for command in (["daemon", "status"], ["daemon", "status", "--watch"]):
            output = eatnas(*command)
            assert "waits: bob computes on it" in output
            assert "1.0 of 24.0 GiB" in output
        assert "GPU-1 is paused" in eatnas("devices", "pause", "GPU-1")
        assert "GPU-1 is already paused" in eatnas("devices", "pause", "GPU")
        assert "paused manually since" in eatnas("daemon", "status")
        assert "GPU-1 is in use again" in eatnas("devices", "resume", "GPU-1")
        (output,) = json.loads(eatnas("daemon", "status", "--format", "json"))["devices"]
    assert (output["host"], output["waits"], output["paused_at"]) == ("there", "bob computes on it", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--devices", "cpux"], "did you mean cpu?"),
        (["--policy", "go"], "--policy go: expected yield or stay"),
        (["--exclude", "cpu"], "leaves no device"),
    ],
)
def test_daemon_with_unknown_devices_does_not_start(record, eatnas, options, words):
    assert words in eatnas("daemon", "start", *options, expect=1)
    assert "no daemon is running" in eatnas("daemon", "status")


def test_unknown_device_is_not_paused(record, eatnas):
    assert "did you mean cpu?" in eatnas("devices", "pause", "cpux", expect=1)


@pytest.fixture
def daemon(endless, without_mlflow, eatnas):
    """Start a daemon with one slot and an endless search."""
    pid = int(eatnas("daemon", "start", "--slots", "1").split()[-1])
    yield psutil.Process(pid)
    if psutil.pid_exists(pid):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def in_training(eatnas_within, until):
    """Return a function that waits until a candidate is in training, and returns the trainings from `daemon status`."""
    return lambda: until(lambda: json.loads(eatnas_within("daemon", "status", "--format", "json"))["work"])


@pytest.mark.slow
def test_every_daemon_command_reports_that_none_runs(record, eatnas):
    assert "no daemon is running" in eatnas("daemon", "status")
    assert "no daemon is running" in eatnas("daemon", "stop")
    assert "no daemon is running" in eatnas("daemon", "stop", "--now")
    assert "no daemon has run" in eatnas("daemon", "logs", expect=1)


@pytest.mark.slow
def test_schema_is_not_migrated_while_a_daemon_runs(record, eatnas, settings):
    with hold_daemon_lock(settings.lock_file):
        for command in (["upgrade"], ["downgrade", "base", "--yes"]):
            assert f"a daemon (pid {os.getpid()}) uses" in eatnas("db", *command, expect=1)
    assert "intact" in eatnas("db", "check")


@pytest.fixture
def stranger():
    """Start a process that does not use the record."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def holder_of(pid, **changes):
    """Return the content of a lock file that names a process of this machine, with some fields changed."""
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return json.dumps({**current_process().to_json(), "pid": pid, "started": started, "program": "a daemon", **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"namespace": "pid:[1]", "host": "box"}, "on box, another machine or container); stop it there"),
        ({"boot": "another", "host": "box"}, "on box, another machine or container); stop it there"),
        ({"started": "1"}, "but another process holds the lock; find it with `fuser"),
        ({"program": "a `db` command"}, "no daemon is running, but a `db` command"),
        (None, "but another process holds the lock; find it with `fuser"),
    ],
)
def test_stop_signals_no_process_but_the_daemon(record, eatnas_within, settings, stranger, changes, words):
    with hold_daemon_lock(settings.lock_file):
        bare = str(stranger.pid)
        settings.lock_file.write_text(bare if changes is None else holder_of(stranger.pid, **changes))
        for now in ((), ("--now",)):
            message = eatnas_within("daemon", "stop", *now, expect=1)
            assert words in message
            assert f"pid {stranger.pid}" in message
    assert stranger.poll() is None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None or os.getuid() != 0, reason="needs a new pid namespace")
def test_daemon_in_another_namespace_is_not_signalled(record, eatnas, settings):
    code = "import sys, time; from pathlib import Path; from eatnas_daemon.daemon_lock import hold_daemon_lock\n"
    code += "with hold_daemon_lock(Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code, str(settings.lock_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as holder:
        try:
            if not holder.stdout.readline():
                pytest.skip("no new pid namespace is allowed here")
            assert "another machine or container" in eatnas("daemon", "status")
            assert "pid 1 on " in eatnas("daemon", "stop", expect=1)
            assert "already uses this database" in eatnas("daemon", "start", expect=1)
            assert holder.poll() is None
        finally:
            for child in psutil.Process(holder.pid).children(recursive=True):
                child.kill()
            holder.kill()


@pytest.mark.slow
def test_downgrade_lists_losses_and_requires_yes(record, eatnas, spec):
    eatnas("search", "create", spec())
    output = eatnas("db", "downgrade", "base", expect=1)
    assert "2 candidates of 1 search" in output
    assert "--yes" in output
    assert "tiny" in eatnas("search", "list")
    assert "2 candidates" in eatnas("db", "downgrade", "base", "--yes")
    assert "holds no eatnas-db record" in eatnas("search", "list", expect=1)
    eatnas("init")
    assert "no searches yet" in eatnas("search", "list")


@pytest.mark.slow
def test_daemon_that_fails_to_start_prints_its_last_log_lines(record, eatnas, home):
    (home / "logs" / "daemon.log").mkdir()
    assert "Is a directory" in eatnas("daemon", "start", expect=1)


@pytest.mark.slow
def test_suspended_daemon_is_reported(record, eatnas, settings):
    code = "import sys, time; from pathlib import Path; from eatnas_daemon.daemon_lock import hold_daemon_lock\n"
    code += "with hold_daemon_lock(Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code, str(settings.lock_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        holder.send_signal(signal.SIGSTOP)
        assert f"kill -CONT {holder.pid}" in eatnas("daemon", "status")
        assert "suspended" in eatnas("daemon", "stop", expect=1)
        holder.send_signal(signal.SIGCONT)
        assert "daemon stopped" in eatnas("daemon", "stop")


def test_log_is_followed_across_rotation(record, eatnas_started, home, until):
    file = home / "logs" / "daemon.log"
    file.write_text("one\ntwo\nthree\n")
    process = eatnas_started("daemon", "logs", "--lines", "2", "--follow")
    assert [process.stdout.readline() for _ in range(2)] == ["two\n", "three\n"]
    with file.open("a") as log:
        log.write("four\n")
    assert process.stdout.readline() == "four\n"
    file.rename(home / "logs" / "daemon.log.1")
    file.write_text("five\n")
    assert process.stdout.readline() == "five\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == ""
    assert process.returncode == 130


def test_log_rotates_and_uses_utc(tmp_path):
    file = tmp_path / "daemon.log"
    file.write_bytes(bytes(MAX_BYTES))
    log = open_log(file)
    log.info("a line")
    for handler in log.handlers:
        handler.close()
    log.handlers.clear()
    assert (tmp_path / "daemon.log.1").stat().st_size == MAX_BYTES
    now = time.strftime("%Y-%m-%d %H", time.gmtime())
    assert re.fullmatch(rf"{now}:\d\d:\d\dZ INFO a line\n", file.read_text())


@pytest.mark.slow
def test_status_shows_each_slot(daemon, eatnas, in_training):
    (work,) = in_training()
    assert (work["slot"], work["search"], work["birth"], work["attempt"]) == (0, "tiny", 0, 1)
    assert work["epochs"] == 1000
    table = eatnas("daemon", "status")
    assert re.search(rf"daemon running, pid {daemon.pid}, since \d{{4}}-", table)
    assert re.search(r"\d+/1000", table)
    assert "already uses this database" in eatnas("daemon", "start", expect=1)


@pytest.mark.slow
def test_daemon_logs_a_deleted_home_and_ends(tiny, eatnas, eatnas_started, in_training, home, until):
    process = eatnas_started("daemon", "start", "--foreground", "--slots", "1")
    assert "daemon is running" in process.stdout.readline()
    in_training()
    family = psutil.Process(process.pid).children(recursive=True)
    shutil.rmtree(home)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    # The files of the home are deleted one by one, and the daemon names the first file that it misses.
    missed = rf"eatnas-db: the (home|lock file|database) {re.escape(str(home))}\S* was deleted or moved "
    missed += "while it was in use; start the program again to use the current one\n"
    assert re.fullmatch(missed, errors), errors
    until(lambda: not any(member.is_running() for member in family))
    # The home folder may exist again: if MLflow was starting when the home was deleted, MLflow creates the folder and a
    # store.
    assert not (home / "eatnas.db").exists()
    eatnas("init")
    without_mlflow = {"env": {**os.environ, "EATNAS_MLFLOW": "off"}}
    assert "daemon started" in eatnas("daemon", "start", "--slots", "1", **without_mlflow)
    assert "daemon stopped" in eatnas("daemon", "stop")


@pytest.mark.slow
def test_stopped_daemon_releases_its_candidates(daemon, eatnas, in_training, until):
    in_training()
    family = daemon.children(recursive=True)
    assert "daemon stopped" in eatnas("daemon", "stop")
    assert "was stopped on request" in eatnas("query", "events", "--candidate", "1")
    until(lambda: not any(member.is_running() for member in family))
    log = eatnas("daemon", "logs")
    assert f"daemon started (pid {daemon.pid}) with 1 CPU slot" in log
    assert f"daemon stopped (pid {daemon.pid})" in log


@pytest.mark.slow
def test_immediate_stop_does_not_wait_for_checkpoints(daemon, eatnas, in_training, until):
    (work,) = in_training()
    # A suspended worker cannot answer, so a daemon that drains would wait for it.
    os.kill(work["worker_pid"], signal.SIGSTOP)
    assert "daemon stopped" in eatnas("daemon", "stop", "--now")
    until(lambda: not psutil.pid_exists(work["worker_pid"]))
    assert "ended without a score" in eatnas("query", "events", "--candidate", "1")


@pytest.mark.slow
def test_daemon_logs_a_killed_worker_and_continues(daemon, eatnas, eatnas_within, in_training, until):
    (work,) = in_training()
    os.kill(work["worker_pid"], signal.SIGKILL)
    until(lambda: "the worker was killed by SIGKILL" in eatnas_within("daemon", "logs"))
    (again,) = in_training()
    assert again["worker_pid"] != work["worker_pid"]
    # The restarted daemon has as many slots as the first start requested.
    assert "daemon started" in eatnas("daemon", "restart", "--policy", "stay")
    until(lambda: eatnas_within("daemon", "logs").count("with 1 CPU slot") == 2)
    assert "cpu:" in eatnas("devices", "pause", "cpu")
    until(lambda: "no device is free: CPU: paused; resume it" in eatnas_within("daemon", "status"))
    assert "ended: paused; resume it" in eatnas("daemon", "logs")
    assert "in use again" in eatnas("devices", "resume", "cpu")
    in_training()
    assert "daemon stopped" in eatnas("daemon", "stop")
