"""A box with GPUs as the whole program sees it: the real pynvml over a library that pretends to be NVIDIA's."""

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
    """Folders with a driver's library: a new one's and an old one's."""
    folder = tmp_path_factory.mktemp("nvml")
    for name, options in {"new": [], "old": ["-DOLD"]}.items():
        (folder / name).mkdir()
        command = [COMPILER, "-shared", "-fPIC", *options, "-o", folder / name / "libnvidia-ml.so.1", SOURCE]
        subprocess.run(command, check=True)
    return folder


@pytest.fixture
def box(tmp_path, libraries, eatnas):
    """Runs a command on a box with these GPUs."""
    file = tmp_path / "gpus.txt"

    def call(*arguments, gpus=2, more=(), driver="new", **options):
        lines = gpus if isinstance(gpus, list) else [f"gpu {uuid} {FREE}" for uuid in UUIDS[:gpus]]
        file.write_text("\n".join([*lines, *more]) + "\n")
        here = {"LD_LIBRARY_PATH": str(libraries / driver), "PRETENDED_GPUS": str(file)}
        environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        return eatnas(*arguments, env=environment | here, **options)

    return call


@pytest.fixture
def stranger():
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


def lines_of(text):
    return [line.split(": ", 1)[1] for line in text.splitlines()]


def test_why_each_gpu_is_or_is_not_used_is_told(box, stranger):
    gpus = [
        f"gpu {UUIDS[0]} {FREE}",
        f"gpu {UUIDS[1]} NVIDIA_A100 81920 600 0 1 0",
        f"gpu {UUIDS[2]} NVIDIA_A100 81920 600 0 0 2",
        f"gpu {UUIDS[3]} {FREE}",
        f"gpu {UUIDS[4]} NVIDIA_A100 81920 600 55 0 0",
        f"gpu {UUIDS[5]} {FREE}",
    ]
    processes = [f"proc 3 {stranger} 30000 compute", f"proc 5 {stranger} 300 graphics"]
    told = lines_of(box("devices", "--explain", gpus=gpus, more=processes))
    assert told[0] == "free: 79.4 GiB of 80.0 GiB of memory free, 0% busy"
    assert "MIG mode" in told[1]
    assert f"nvidia-smi -i {UUIDS[1]} -mig 0" in told[1]
    assert "compute mode is prohibited" in told[2]
    assert f"sleep (pid {stranger}, " in told[3]
    assert "55% busy" in told[4]
    assert told[5].startswith("free: 79.1 GiB")
    assert "trains next to GPUs only if" in told[6]


def test_a_driver_that_does_not_say_who_computes_leaves_it_to_memory(box, stranger):
    told = lines_of(box("devices", "--explain", driver="old", more=[f"proc 1 {stranger} 30000 compute"]))
    assert told[0].startswith("free: ")
    assert "29.9 GiB of memory are in use (the driver does not report" in told[1]


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (f"fail nvmlInitWithFlags {DRIVER_NOT_LOADED}", "not loaded; run `modprobe nvidia`"),
        (f"fail nvmlDeviceGetCount_v2 {VERSION_MISMATCH}", "restart the machine"),
    ],
)
def test_a_driver_that_does_not_work_is_told_and_the_processor_is_left(box, trouble, words):
    told = box("devices", "--explain", more=[trouble])
    assert words in told
    assert "\nCPU: free" in told
    assert words in box("devices", "--devices", "0", more=[trouble], expect=1)


@pytest.mark.slow
def test_a_driver_that_hangs_is_waited_for_no_longer_than_it_takes_to_be_sure(box, record):
    hanging = "hang nvmlDeviceGetMemoryInfo 600"
    assert "no GPU: the NVIDIA driver has not responded for 15 s" in box("devices", more=[hanging], timeout=60)
    assert "has not responded" in box("doctor", more=[hanging], timeout=60)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.slow
def test_a_gpu_on_which_torch_cannot_compute_is_told_by_the_doctor(box, record):
    told = json.loads(box("doctor", "--format", "json", expect=1, whole=True).stdout)
    (found,) = [row for row in told if row["what"] == "torch on GPUs"]
    assert not found["ok"]
    assert "without CUDA" in found["found"] or "finds no CUDA driver" in found["found"]
    assert "pytorch.org" in found["advice"] or "NVIDIA_DRIVER_CAPABILITIES" in found["advice"]


def test_a_search_is_given_as_many_births_in_flight_as_suit_the_gpus(box, record, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: s\nspace: eatnas-tiny\ndata: {name: digits}\n")
    assert "at most 12 of its candidates" in box("search", "create", str(spec), gpus=6)
    settled = ("--set", "name=t", "--set", "evolution.lag=5", "--slots", "6")
    told = box("search", "create", str(spec), *settled, gpus=6, whole=True)
    assert told.stdout == "search t created; `eatnas-db run t` starts it\n"
    assert "evolution.lag of 5 holds, whatever --slots says" in told.stderr
    lags = [json.loads(box("search", "show", name, "--format", "json"))["lag"] for name in "st"]
    assert lags == [12, 5]
