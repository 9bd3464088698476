"""Real processes, and probes of fake GPUs."""

import subprocess

import pytest

from eatnas_daemon.devices.model import CPU
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.probe import probe_devices
from support.fake_nvml import FakeNvml


@pytest.fixture
def start_process():
    """Return a function that starts real processes, which wait for input. They are killed after the test."""
    processes = []

    def start(*command):
        process = subprocess.Popen(command or ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def probe_gpus(tmp_path):
    """Return a function that returns the snapshots of fake GPUs, with lock files in the test's folder."""

    def probe(*gpus):
        return [device for device in probe_devices(Nvml(FakeNvml(*gpus)), tmp_path) if device.kind != CPU]

    return probe
