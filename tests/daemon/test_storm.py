"""A short run of the benchmark that causes faults, and workers whose supervisor is killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.schema.trainings import attempt, epoch, lease
from support.simulated_worker import SIMULATED_WORKER
from support.waiting import eventually

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"
KINDS = ("worker_killed", "supervisor_killed", "all_killed", "drained", "torn_file", "garbled_file", "checkpoints_full")
SECONDS = 200
SUPERVISE = """
import sys
from eatnas_daemon.workers.launcher import Launcher
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_db.database.engine import open_record
from eatnas_db.settings import load_settings
settings = load_settings({}, sys.argv[1])
Supervisor(open_record(settings.database_url), settings, Launcher(settings.logs, sys.argv[2:]), slots=2,
           host_name="here", only="s").run()
"""


def run_storm(out, *arguments):
    """Run the benchmark. Return its output lines about faults and its output lines about rounds."""
    command = [sys.executable, str(CHAOS), "--seconds-per-epoch", "0.15", "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in lines if "fault" in line], [line for line in lines if "lost" in line]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the storm limits other processes by Linux's prlimit")
def test_history_survives_a_short_storm_of_faults(tmp_path):
    faults, rounds = run_storm(tmp_path / "out", "--each", "2", "--real", "0", "--faults", *KINDS)
    hit = [fault["fault"] for fault in faults if fault["hit"]]
    assert {kind: hit.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 2)
    assert {(row["lost"], row["doubled"], row["differing"]) for row in rounds} == {(0, 0, 0)}

    # A second run causes no fault, because each kind has already occurred twice.
    again, _ = run_storm(tmp_path / "out", "--each", "2", "--real", "0", "--faults", *KINDS)
    assert again == faults


def orphan_workers(settings, program):
    """Kill a supervisor while its workers are training, and return the workers."""
    with subprocess.Popen([sys.executable, "-c", SUPERVISE, str(settings.home), *program]) as supervisor:
        engine = open_record(settings.database_url)

        def trained():
            with read_transaction(engine) as connection:
                return connection.execute(select(epoch.c.number)).first() and connection.execute(select(lease)).first()

        eventually(trained)
        workers = psutil.Process(supervisor.pid).children(recursive=True)
        supervisor.send_signal(signal.SIGKILL)
        return workers


@pytest.mark.slow
def test_workers_of_a_killed_supervisor_checkpoint_and_exit(tmp_path, home, supervise):
    expected = supervise(home(tmp_path / "calm"))
    settings = home(tmp_path / "orphaned")
    workers = orphan_workers(settings, (*SIMULATED_WORKER, "--seconds-per-epoch", "0.3"))
    assert workers
    _, left = psutil.wait_procs(workers, timeout=200)
    assert not left
    assert supervise(settings) == expected


@pytest.mark.slow
def test_real_workers_of_a_killed_supervisor_exit_soon(tmp_path, home, supervise):
    settings = home(tmp_path / "orphaned", training__epochs=200, budget__candidates=6)
    workers = orphan_workers(settings, ("-m", "eatnas_training.worker"))
    assert len(workers) == 2
    _, left = psutil.wait_procs(workers, timeout=200)
    assert not left
    files = list(settings.artifacts.glob("checkpoints/*/c*.ckpt"))
    # Each worker has saved a checkpoint, at the end of an epoch or within it.
    assert files
    with read_transaction(open_record(settings.database_url)) as connection:
        assert set(connection.execute(select(attempt.c.outcome)).scalars()) == {None}
