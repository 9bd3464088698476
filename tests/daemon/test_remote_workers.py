"""Workers in actors of a Ray cluster, without Ray: the actor's code, the daemon's view of it, and the options."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from eatnas_daemon.daemon_options import DaemonOptions, change_options, complete_options
from eatnas_daemon.ray_cluster.bridge_process import BridgeProcess
from eatnas_daemon.ray_cluster.cluster_scheduler import ClusterScheduler
from eatnas_daemon.ray_cluster.remote_process import RemoteWorkerProcess
from eatnas_daemon.ray_cluster.remote_worker import RemoteWorker
from eatnas_daemon.ray_cluster.requests import WorkerNeeds, new_socket_pair, send_packet
from eatnas_daemon.ray_cluster.versions import describe_connection_error, find_address
from eatnas_daemon.workers.timeouts import DEFAULT_TIMEOUTS
from eatnas_daemon.workers.worker_state import PlacementCheck, WorkerState
from eatnas_db.errors import ConflictError, EatnasError
from eatnas_db.worker_settings import WorkerSettings
from eatnas_protocol.framing import Decoder, encode
from eatnas_protocol.messages import Exit, Ready
from support.searches import create_home
from support.simulated_worker import SIMULATED_WORKER
from support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Ray clusters of eatnas-db need Linux")
VERSIONS = {"numpy": importlib.metadata.version("numpy").partition("+")[0]}


def request_for(folder: Path, **changes):
    (folder / "token").write_text("t")
    request = {
        "program": list(SIMULATED_WORKER),
        "arithmetic": "native",
        "settings": {},
        "replaced": [],
        "log_file": str(folder / "worker-0.log"),
        "on_gpu": False,
        "versions": VERSIONS,
        "home": str(folder),
        "marker": str(folder / "token"),
        "token": "t",
    }
    return request | changes


def read_ready(worker):
    decoder = Decoder()
    while True:
        content, _ = worker.read(1.0)
        for message in decoder.feed(content or b""):
            return message


def test_an_actor_holds_the_pipes_of_a_worker(tmp_path):
    worker = RemoteWorker()
    started = worker.start(request_for(tmp_path))
    ready = read_ready(worker)
    assert isinstance(ready, Ready)
    assert ready.pid == started["pid"]
    assert started["cores"] >= 1
    assert started["memory_bytes"] > 0
    worker.write(encode(Exit()))
    while worker.read(1.0)[0] != b"":
        pass
    assert worker.finish() == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"versions": {"numpy": "0.1"}}, f"numpy {VERSIONS['numpy']} (the daemon has 0.1)"),
        ({"versions": {"no-such-package": "1"}}, "no-such-package is missing"),
        ({"token": "another"}, "does not see the home"),
        ({"marker": "/nowhere/token"}, "does not see the home"),
        ({"program": ["-c", "pass"], "home": "/nowhere"}, "cannot write to the home"),
    ],
)
def test_a_node_that_cannot_train_refuses_the_worker(tmp_path, changes, reason):
    answer = RemoteWorker().start(request_for(tmp_path, **changes))
    assert reason in answer["refused"]
    assert answer["node"]


def test_a_stopped_worker_dies_with_its_actor(tmp_path):
    code = (
        "import sys, json; from eatnas_daemon.ray_cluster.remote_worker import RemoteWorker\n"
        "worker = RemoteWorker(); print(worker.start(json.loads(sys.argv[1]))['pid'], flush=True); sys.stdin.read()"
    )
    started = tmp_path / "started"
    program = f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(600)"
    request = json.dumps(request_for(tmp_path, program=["-c", program]))
    actor = subprocess.Popen(
        [sys.executable, "-c", code, request], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert actor.stdout is not None
    pid = int(actor.stdout.readline())
    eventually(started.exists)  # by now, the process has asked the kernel for a signal at its parent's end
    os.kill(pid, signal.SIGSTOP)
    actor.kill()
    actor.communicate()
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


@pytest.fixture
def remote():
    """Return the daemon's view of a worker, and the bridge's end of its socket."""
    (worker_in, command_fd), (report_fd, worker_out) = os.pipe(), os.pipe()
    own, bridge = new_socket_pair()
    worker = RemoteWorkerProcess(own, command_fd, report_fd, on_gpu=False)
    yield worker, bridge
    os.close(worker_in)
    os.close(worker_out)
    bridge.close()
    if own.fileno() >= 0:
        worker.close()


def test_a_worker_is_pending_until_a_node_has_room(remote):
    worker, bridge = remote
    assert worker.pending
    assert not worker.suspended
    send_packet(bridge, {"node": "n1", "cores": 8, "pid": 12, "memory_bytes": 5, "suspended": True, "gpus": []})
    assert not worker.pending
    assert (worker.memory_bytes, worker.suspended) == (5, True)
    device = worker.find_device(Ready(12, {}, "cpu", ""))
    assert (device.uuid, device.cores) == ("cpu:ray:n1", 8)
    send_packet(bridge, {"exit_status": 1, "reason": "the node is gone"})
    assert worker.close() == 1
    assert worker.loss_reason == "the node is gone"


def test_a_worker_whose_node_is_silent_is_overdue(remote):
    worker, bridge = remote
    state = WorkerState(worker, worker.find_device(Ready(1, {}, "cpu", "")), 0.0, PlacementCheck(verified=True))
    send_packet(bridge, {"node": "n1", "silent_seconds": DEFAULT_TIMEOUTS.silence})
    assert state.overdue(1.0, DEFAULT_TIMEOUTS) is None
    send_packet(bridge, {"silent_seconds": DEFAULT_TIMEOUTS.silence + 1})
    failure = state.overdue(1.0, DEFAULT_TIMEOUTS)
    assert failure is not None
    assert (failure.kind, failure.message) == ("lost", "the worker's node has not answered for 120 s")
    send_packet(bridge, {"silent_seconds": 0.0})
    assert state.overdue(1.0, DEFAULT_TIMEOUTS) is None


def test_a_bridge_that_ends_has_killed_its_workers(remote):
    worker, bridge = remote
    bridge.close()
    assert worker.close() == -signal.SIGKILL
    assert worker.loss_reason == "the bridge to the Ray cluster ended"


def test_gpus_are_those_of_the_node(remote):
    worker, bridge = remote
    worker._on_gpu = True
    with pytest.raises(ValueError, match="has no GPU"):
        worker.find_device(Ready(1, {}, "cuda:0", ""))
    gpu = {"uuid": "GPU-a", "name": "H200", "index": 3, "total_bytes": 9, "free_bytes": 4, "utilisation_percent": 50}
    send_packet(bridge, {"node": "n1", "cores": 8, "pid": 12, "gpus": [gpu]})
    device = worker.find_device(Ready(1, {}, "cuda:0", "", gpu_uuid="a"))
    assert (device.uuid, device.kind, device.free_bytes) == ("GPU-a", "cuda", 4)
    assert device.name == "H200 of the Ray node n1"


def test_a_bridge_that_cannot_start_is_explained(tmp_path):
    bridge = BridgeProcess("10.0.0.1:6379", WorkerNeeds(), tmp_path, tmp_path / "missing" / "ray", tmp_path / "ray.log")
    scheduler = ClusterScheduler(bridge, 2)
    slots = []
    scheduler.update(slots, frozenset(), DEFAULT_TIMEOUTS)
    assert [slot.may_start for slot in slots] == [False, False]
    assert scheduler.problem.startswith("the bridge to the Ray cluster cannot be started: ")
    scheduler.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"launcher": "slurm"}, "--launcher slurm: expected local or ray"),
        ({"address": "10.0.0.1:6379"}, "--address needs --launcher ray"),
        ({"gpus_per_worker": 1.0}, "--gpus-per-worker needs --launcher ray"),
        ({"launcher": "ray", "devices": ("0",)}, "--devices has no effect with --launcher ray"),
        ({"launcher": "ray", "policy": "stay"}, "--policy has no effect with --launcher ray"),
        ({"launcher": "ray", "lanes": 4}, "--lanes has no effect with --launcher ray"),
        ({"lanes": 4, "max_per_device": 2}, "--max-per-device has no effect with --lanes 4"),
        ({"lanes": 17}, "--lanes 17: expected a number from 1 to 16"),
        ({"launcher": "ray", "address": "ray://head:10001"}, "Ray Client is not supported"),
        ({"launcher": "ray", "address": "head"}, "expected HOST:PORT"),
        ({"launcher": "ray", "address": "head:99999"}, "expected HOST:PORT"),
        ({"launcher": "ray", "cpus_per_worker": 1.5}, "--cpus-per-worker 1.5: expected"),
        ({"launcher": "ray", "cpus_per_worker": 0.0}, "--cpus-per-worker 0: expected"),
        ({"launcher": "ray", "gpus_per_worker": 2.0}, "--gpus-per-worker 2: expected"),
        ({"launcher": "ray", "cpus_per_worker": float("nan")}, "--cpus-per-worker nan: expected"),
        ({"launcher": "ray", "cpus_per_worker": float("inf")}, "--cpus-per-worker inf: expected"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ConflictError, match=message):
        DaemonOptions(**options)


def test_another_launcher_drops_the_options_of_the_first():
    local = DaemonOptions(slots=3, devices=("0",))
    remote = change_options(local, DaemonOptions(launcher="ray", address="h:1"))
    assert remote == DaemonOptions(slots=3, launcher="ray", address="h:1")
    assert change_options(remote, DaemonOptions(slots=4)) == DaemonOptions(slots=4, launcher="ray", address="h:1")
    assert change_options(remote, DaemonOptions(launcher="local")) == DaemonOptions(slots=3, launcher="local")


def test_lanes_and_maximum_number_of_workers_replace_each_other():
    lanes, limited = DaemonOptions(slots=3, lanes=8), DaemonOptions(slots=3, max_per_device=2)
    assert change_options(lanes, DaemonOptions(max_per_device=2)) == limited
    assert change_options(limited, DaemonOptions(lanes=8)) == lanes


def test_settings_complete_the_options_of_their_launcher():
    settings = WorkerSettings("ray", "h:1", 4.0, 0.5)
    assert complete_options(DaemonOptions(slots=2), settings) == DaemonOptions(
        slots=2, launcher="ray", address="h:1", cpus_per_worker=4.0, gpus_per_worker=0.5
    )
    given = DaemonOptions(launcher="ray", address="g:2", gpus_per_worker=0.0)
    completed = complete_options(given, settings)
    assert (completed.address, completed.cpus_per_worker, completed.gpus_per_worker) == ("g:2", 4.0, 0.0)
    local = DaemonOptions(launcher="local", devices=("0",))
    assert complete_options(local, settings) == local
    assert complete_options(DaemonOptions(), WorkerSettings(address="h:1")) == DaemonOptions(launcher="local")
    with pytest.raises(ConflictError, match=r"--devices has no effect .* EATNAS_LAUNCHER, sets this launcher"):
        complete_options(DaemonOptions(devices=("0",)), settings)


def test_the_variable_of_ray_names_the_head():
    assert find_address({}) == find_address({"RAY_ADDRESS": ""}) == "auto"
    assert find_address({"RAY_ADDRESS": "10.0.0.1:6379"}) == "10.0.0.1:6379"
    for wrong in ("ray://h:10001", "h", "h:0"):
        with pytest.raises(EatnasError, match=f"RAY_ADDRESS is '{wrong}'"):
            find_address({"RAY_ADDRESS": wrong})


@pytest.mark.parametrize(
    ("cpus", "gpus", "node", "workers"),
    [
        (1, 0, (4, 0), 4),
        (2, 1, (8, 2), 2),
        (1, 0.5, (8, 1), 2),
        (1, 0.1, (16, 1), 10),
        (1, 0.4, (8, 2), 4),
        (1, 0.6, (8, 2), 2),
        (4, 0, (3, 0), 0),
        (1, 1, (8, 0), 0),
    ],
)
def test_a_node_has_room_for_whole_workers(cpus, gpus, node, workers):
    assert WorkerNeeds(cpus, gpus).count_workers(*node) == workers


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "the Ray head at h:1 does not answer"),
        (OSError(-2, "Name or service not known"), "the Ray head h:1 cannot be reached"),
        (RuntimeError("Version mismatch: The cluster was started with:\n Ray: 2.9"), "has other versions"),
        (RuntimeError("Can't find the local raylet"), "this machine is not a node of the Ray cluster"),
    ],
)
def test_errors_of_the_connection_are_explained_in_one_line(error, words):
    text = describe_connection_error(error, "h:1")
    assert words in text
    assert "\n" not in text


def test_daemon_without_ray_prints_the_install_command(tmp_path):
    settings = create_home(tmp_path / "home")
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['ray'] = None")
    variables = {**os.environ, "PYTHONPATH": str(tmp_path), "EATNAS_LAUNCHER": "ray", "EATNAS_MLFLOW": "off"}
    command = [sys.executable, "-m", "eatnas_daemon.main", "--home", str(settings.home)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    expected = "eatnas-db: this command needs ray, which is not installed; run `pip install 'eatnas-db[ray]'`\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
