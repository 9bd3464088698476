"""Commands on a machine with GPUs. The real pynvml calls a fake of NVIDIA's library."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

SOURCE = Path(__file__).parents[1] / "support" / "fake_nvml.c"
COMPILER = shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
UUIDS = [f"GPU-{letter * 8}-1111-2222-3333-444444444444" for letter in "abcdef"]
FREE = "NVIDIA_A100-SXM4-80GB 81920 600 0 0 0"
DRIVER_NOT_LOADED = 9
VERSION_MISMATCH = 18


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """Return a folder with the libraries of a new and an old driver."""
    folder = tmp_path_factory.mktemp("nvml")
    for name, options in {"new": [], "old": ["-DOLD"]}.items():
        (folder / name).mkdir()
        command = [COMPILER, "-shared", "-fPIC", *options, "-o", folder / name / "libnvidia-ml.so.1", SOURCE]
        subprocess.run(command, check=True)
    return folder


@pytest.fixture
def run_with_gpus(tmp_path, libraries, eatnas):
    """Return a function that runs a command on a machine with the given GPUs."""
    file = tmp_path / "gpus.txt"

    def run(*arguments, gpus=2, more=(), driver="new", **options):
        lines = gpus if isinstance(gpus, list) else [f"gpu {uuid} {FREE}" for uuid in UUIDS[:gpus]]
        file.write_text("\n".join([*lines, *more]) + "\n")
        fake = {"LD_LIBRARY_PATH": str(libraries / driver), "FAKE_GPUS": str(file)}
        environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        return eatnas(*arguments, env=environment | fake, **options)

    return run


@pytest.fixture
def other_pid():
    """Return the id of a process that is not a worker."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


def explanations(text):
    return [line.split(": ", 1)[1] for line in text.splitlines()]


def test_every_gpu_has_an_explanation(run_with_gpus, other_pid):
    gpus = [
        f"gpu {UUIDS[0]} {FREE}",
        f"gpu {UUIDS[1]} NVIDIA_A100 81920 600 0 1 0",
        f"gpu {UUIDS[2]} NVIDIA_A100 81920 600 0 0 2",
        f"gpu {UUIDS[3]} {FREE}",
        f"gpu {UUIDS[4]} NVIDIA_A100 81920 600 55 0 0",
        f"gpu {UUIDS[5]} {FREE}",
    ]
    processes = [f"proc 3 {other_pid} 30000 compute", f"proc 5 {other_pid} 300 graphics"]
    lines = explanations(run_with_gpus("devices", "--explain", gpus=gpus, more=processes))
    assert lines[0] == "free: 79.4 GiB of 80.0 GiB of memory free, 0% busy"
    assert "MIG mode" in lines[1]
    assert f"nvidia-smi -i {UUIDS[1]} -mig 0" in lines[1]
    assert "compute mode is prohibited" in lines[2]
    assert f"in use by sleep (pid {other_pid}, " in lines[3]
    assert "55% busy" in lines[4]
    assert lines[5].startswith("free: 79.1 GiB")
    assert "this machine has GPUs, and --devices does not name" in lines[6]


def test_memory_decides_under_a_driver_without_process_list(run_with_gpus, other_pid):
    more = [f"proc 1 {other_pid} 30000 compute"]
    lines = explanations(run_with_gpus("devices", "--explain", driver="old", more=more))
    assert lines[0].startswith("free: ")
    assert "29.9 GiB of memory are in use (the driver does not report" in lines[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (f"fail nvmlInitWithFlags {DRIVER_NOT_LOADED}", "not loaded; run `modprobe nvidia`"),
        (f"fail nvmlDeviceGetCount_v2 {VERSION_MISMATCH}", "restart the machine"),
    ],
)
def test_cpu_remains_if_the_driver_fails(run_with_gpus, failure, message):
    output = run_with_gpus("devices", "--explain", more=[failure])
    assert message in output
    assert "\nCPU: free" in output
    assert message in run_with_gpus("devices", "--devices", "0", more=[failure], expect=1)


@pytest.mark.slow
def test_commands_stop_waiting_for_a_driver_that_hangs(run_with_gpus, record):
    hang = ["hang nvmlDeviceGetMemoryInfo 600"]
    expected = "no GPU: the NVIDIA driver has not responded for 15 s"
    assert expected in run_with_gpus("devices", more=hang, timeout=300)
    assert "has not responded" in run_with_gpus("doctor", more=hang, timeout=300)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.slow
def test_doctor_reports_that_torch_cannot_use_the_gpu(run_with_gpus, record):
    findings = json.loads(run_with_gpus("doctor", "--format", "json", expect=1, whole=True).stdout)
    (finding,) = [row for row in findings if row["what"] == "torch on GPUs"]
    assert not finding["ok"]
    assert "without CUDA" in finding["found"] or "finds no CUDA driver" in finding["found"]
    assert "pytorch.org" in finding["advice"] or "NVIDIA_DRIVER_CAPABILITIES" in finding["advice"]


@pytest.mark.slow
def test_default_lag_of_a_search_suits_the_gpus(run_with_gpus, record, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: s\nspace: eatnas-tiny\ndata: {name: digits}\n")
    assert "at most 12 of its candidates" in run_with_gpus("search", "create", str(spec), gpus=6)
    options = ("--set", "name=t", "--set", "evolution.lag=5", "--slots", "6")
    created = run_with_gpus("search", "create", str(spec), *options, gpus=6, whole=True)
    assert created.stdout == "search t created; `eatnas-db run t` starts it\n"
    assert "--slots has no effect, because the spec sets evolution.lag to 5" in created.stderr
    lags = [json.loads(run_with_gpus("search", "show", name, "--format", "json"))["lag"] for name in "st"]
    assert lags == [12, 5]
