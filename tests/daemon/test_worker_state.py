"""The supervisor's view of a worker: its messages, the resources of its training, and its replacement."""

from types import SimpleNamespace

import pytest

from eatnas_daemon.devices.model import CPU_DEVICE, DeviceSnapshot
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_daemon.workers.worker_state import PlacementCheck, WorkerState
from eatnas_db.leases import LeaseToken
from eatnas_db.training_record import ResourceUse
from eatnas_protocol.messages import Failed, Progress
from eatnas_report.formats import GIB

GPU = DeviceSnapshot("GPU-aaaa", "cuda", "NVIDIA Fake")


@pytest.fixture
def new_worker():
    def make(device=CPU_DEVICE):
        process = SimpleNamespace(send=lambda message: None, cpu_seconds=3.0, memory_bytes=100)
        return WorkerState(process, device, last_message_at=0.0, placement=PlacementCheck(verified=True))

    return make


def assignment_of(candidate_id):
    leased = SimpleNamespace(token=LeaseToken(candidate_id, 1))
    return SimpleNamespace(leased=leased, message=None, expected_bytes=3 * GIB)


def test_report_on_an_earlier_training_is_ignored(new_worker):
    worker = new_worker()
    worker.assign(assignment_of(2), now=0.0)
    assert not worker.receive(Failed(1, 1, "exception", "late", "", 0.0), now=1.0)
    assert not worker.receive(Progress(1, 1, 0, 1, 2, 0.5), now=1.0)
    assert (worker.reports, worker.training.progress, worker.last_message_at) == ([], None, 1.0)
    assert worker.receive(Failed(2, 1, "exception", "its own", "", 0.0), now=2.0)


def test_memory_of_the_previous_training_does_not_count(new_worker):
    worker = new_worker(GPU)
    worker.assign(assignment_of(1), now=0.0)
    worker.receive(Progress(1, 1, 0, 1, 2, 0.5, memory_bytes=3 * GIB), now=1.0)
    for _ in range(2):
        worker.memory.sample()
    assert worker.outstanding_bytes == 0
    worker.end_training()
    worker.assign(assignment_of(2), now=2.0)
    assert worker.outstanding_bytes == worker.claimed_bytes == 3 * GIB


def test_epochs_between_two_measurements_share_the_cpu_load(new_worker):
    worker = new_worker()
    worker.assign(assignment_of(1), now=10.0)
    worker.process.cpu_seconds = 4.0
    worker.measure_epoch(1, now=12.0, gpu_load=None)
    worker.measure_epoch(2, now=12.0, gpu_load=None)
    worker.process.cpu_seconds = 6.0
    worker.measure_epoch(3, now=14.0, gpu_load=None)
    worker.process.memory_bytes = 0
    worker.measure_epoch(4, now=16.0, gpu_load=None)
    uses = {1: ResourceUse(100, 0.5), 2: ResourceUse(100, 0.5), 3: ResourceUse(100, 1.0)}
    assert worker.training.resource_uses == uses


def test_worker_is_replaced_when_its_memory_grows_by_half(new_worker):
    worker = new_worker()
    for memory_bytes in (100, 100, 100, 100, 200, 250, 299):
        worker.process.memory_bytes = memory_bytes
        assert worker.count_training(Timeouts()) is None
    worker.process.memory_bytes = 301
    assert worker.count_training(Timeouts()) == "its memory has grown by more than 50%"
