"""Probes of GPUs, the CPU and processes, once and in a thread. The GPUs are fakes of NVML."""

import os
import sys
import threading

import psutil
import pynvml
import pytest

from eatnas_daemon.devices.availability import Cause, check_availability
from eatnas_daemon.devices.model import CPU
from eatnas_daemon.devices.monitor import DeviceMonitor
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.options import DeviceOptions
from eatnas_daemon.devices.probe import identify_process, probe_cpu, probe_devices
from support.devices import NO_SUCH_PID, UUID, FakeClock, gpu, gpu_process, machine
from support.fake_nvml import GIB, FakeGpu, FakeNvml

ANY = DeviceOptions()


def cause(device):
    return check_availability(device, ANY).cause


def test_failing_gpu_keeps_its_name_and_spares_the_others(tmp_path):
    library = FakeNvml(FakeGpu(UUID), FakeGpu("GPU-2"))
    nvml = Nvml(library)
    probe_devices(nvml, tmp_path)
    library.gpus[0].errors["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_GPU_IS_LOST
    broken, whole, _ = probe_devices(nvml, tmp_path)
    assert broken.uuid == UUID
    assert cause(broken) is Cause.ERROR
    assert check_availability(broken, ANY).reason == "NVML error: GPU is lost"
    assert cause(whole) is Cause.FREE
    library.gpus[0].errors.clear()
    assert cause(probe_devices(nvml, tmp_path)[0]) is Cause.FREE
    assert library.sessions == 1


def test_gpu_that_never_answered_is_known_by_its_index(probe_gpus):
    errors = {"nvmlDeviceGetUUID": pynvml.NVML_ERROR_UNKNOWN}
    broken, whole = probe_gpus(FakeGpu(UUID, errors=errors), FakeGpu("GPU-2"))
    assert (broken.index, cause(broken)) == (0, Cause.ERROR)
    assert cause(whole) is Cause.FREE


def test_gpu_that_disappears_is_reported_as_broken(tmp_path):
    library = FakeNvml(FakeGpu(UUID), FakeGpu("GPU-2"))
    nvml = Nvml(library)
    probe_devices(nvml, tmp_path)
    del library.gpus[0]
    remaining, missing, _ = probe_devices(nvml, tmp_path)
    assert (remaining.uuid, remaining.index) == ("GPU-2", 0)
    assert cause(remaining) is Cause.FREE
    assert missing.uuid == UUID
    assert check_availability(missing, ANY).reason == "the driver no longer lists it"


def test_driver_that_fails_during_a_probe_is_opened_again(tmp_path):
    library = FakeNvml(FakeGpu(UUID), FakeGpu("GPU-2"))
    nvml = Nvml(library)

    def fail():
        library.driver_error = pynvml.NVML_ERROR_UNKNOWN

    library.before_memory = fail
    assert {cause(device) for device in probe_devices(nvml, tmp_path)[:-1]} == {Cause.ERROR}
    library.before_memory = lambda: None
    library.driver_error = None
    assert {cause(device) for device in probe_devices(nvml, tmp_path)[:-1]} == {Cause.FREE}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver is installed"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "restart the machine"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "permission to use the NVIDIA driver is denied"),
        (pynvml.NVML_ERROR_UNKNOWN, "the NVIDIA driver does not work: Unknown Error"),
    ],
)
def test_driver_error_is_explained_and_the_cpu_remains(tmp_path, error, message):
    library = FakeNvml(FakeGpu(UUID))
    library.driver_error = error
    nvml = Nvml(library)
    (cpu,) = probe_devices(nvml, tmp_path)
    assert cpu.kind == CPU
    assert message in nvml.error
    library.driver_error = None
    assert len(probe_devices(nvml, tmp_path)) == 2
    assert nvml.error is None


def test_driver_without_gpus_is_reported(tmp_path):
    nvml = Nvml(FakeNvml())
    probe_devices(nvml, tmp_path)
    assert nvml.error == "the NVIDIA driver is loaded but finds no GPU"


def test_process_is_identified_by_owner_and_program(start_process):
    identity = identify_process(start_process().pid)
    assert identity.owner == psutil.Process().username()
    assert not identity.is_eatnas_worker
    assert identify_process(NO_SUCH_PID) is None


def test_worker_of_another_daemon_is_recognised(start_process):
    program = "import sys; print(flush=True); sys.stdin.read()"
    worker = start_process(sys.executable, "-c", program, "eatnas_training.worker")
    worker.stdout.readline()  # its first line shows that the process has started its program
    assert identify_process(worker.pid).is_eatnas_worker


def test_process_names_are_printed_without_terminal_codes():
    assert "\x1b" not in str(gpu_process(name="\x1b[2Jpython"))


def test_cpu_of_this_machine_is_probed():
    cpu = probe_cpu()
    assert 1 <= cpu.cores <= os.cpu_count()
    assert 0 < cpu.free_bytes <= cpu.total_bytes


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 1), ("max 100000", 8), ("50000 100000", 1), ("", 8)])
def test_container_quota_limits_the_cores(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert probe_cpu(tmp_path / "cpu.max").cores == cores
    assert probe_cpu(tmp_path / "none").cores == 8


def test_monitor_reports_a_driver_that_stops_responding():
    clock, asked, answer = FakeClock(), threading.Semaphore(0), threading.Semaphore(1)

    def probe():
        asked.release()
        answer.acquire()
        return [gpu(free_bytes=GIB), machine()[-1]]

    monitor = DeviceMonitor(probe, interval_seconds=0.0, monotonic=clock)
    try:
        assert monitor.snapshots()[0].error is None
        asked.acquire()
        asked.acquire()
        clock.now += 31
        broken, cpu = monitor.snapshots()
        assert check_availability(broken, ANY).reason == "the driver has not responded for 31 s"
        assert cpu.error is None
    finally:
        monitor.close()
        answer.release()


def test_monitor_raises_the_error_of_the_probe():
    def probe():
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        DeviceMonitor(probe).snapshots()
