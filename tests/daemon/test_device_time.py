"""Device time: seconds in steps are divided among the trainings that use a device at the same time."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from eatnas_daemon.devices.model import CPU_DEVICE, DeviceSnapshot
from eatnas_daemon.supervision.recorder import list_lease_progress
from eatnas_daemon.workers.device_time import share_device_time
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.worker_state import PlacementCheck, WorkerState
from eatnas_db.leases import LeaseToken
from eatnas_protocol.messages import Finished, Phase, Progress

GPU = DeviceSnapshot("GPU-aaaa", "cuda", "NVIDIA Fake")


def train_in(slots, device=GPU, threads=1):
    """Start a training of candidate n in the n-th slot."""
    number = len(slots) + 1
    leased = SimpleNamespace(token=LeaseToken(number, 1))
    message = SimpleNamespace(training={"threads": threads, "batch_size": 64})
    process = SimpleNamespace(send=lambda message: None, cpu_seconds=0.0, memory_bytes=100, pid=number)
    slot = Slot(number, device)
    slot.worker = WorkerState(process, device, last_message_at=0.0, placement=PlacementCheck(verified=True))
    slot.worker.assign(SimpleNamespace(leased=leased, message=message, expected_bytes=0), now=0.0)
    slots.append(slot)
    return slot


def receive(slot, kind, *fields):
    slot.receive(kind(slot.number, 1, *fields), 0.0)


def progress(slot, seconds):
    receive(slot, Progress, 0, 1, 2, seconds)


def seconds_of(slots):
    return [slot.training.time.device_seconds for slot in slots]


def test_trainings_on_one_gpu_sum_to_wall_time():
    slots = []
    for _ in range(3):
        receive(train_in(slots), Phase, "training")
    share_device_time(slots, 6.0, cores=2)
    for slot in slots:
        progress(slot, 6.0)
    assert seconds_of(slots) == pytest.approx([2.0, 2.0, 2.0])
    share_device_time(slots[:2], 2.0, cores=2)  # the third training is over
    share_device_time(slots[:1], 2.0, cores=2)
    progress(slots[0], 10.0)
    progress(slots[1], 8.0)
    assert seconds_of(slots) == pytest.approx([5.0, 3.0, 2.0])
    assert [slot.training.time.step_seconds for slot in slots] == [10.0, 8.0, 6.0]


def test_training_outside_its_steps_takes_no_share():
    slots = []
    for phase in ("training", "loading"):
        receive(train_in(slots), Phase, phase)
    share_device_time(slots, 4.0, cores=2)
    progress(slots[0], 4.0)
    # The second training does all its steps between two calls.
    receive(slots[1], Phase, "training")
    receive(slots[1], Finished, 0.5, 1.0, "digest", 1.0)
    assert seconds_of(slots) == pytest.approx([4.0, 0.5])


def test_trainings_on_other_devices_share_nothing():
    slots = []
    for device in (GPU, DeviceSnapshot("GPU-bbbb", "cuda", "NVIDIA Fake")):
        receive(train_in(slots, device), Phase, "validating")
    share_device_time(slots, 4.0, cores=1)
    for slot in slots:
        progress(slot, 4.0)
    assert seconds_of(slots) == [4.0, 4.0]


@pytest.mark.parametrize(
    ("threads", "expected"),
    [((1, 1), (4.0, 4.0)), ((1, 1, 1, 1), (2.0,) * 4), ((2, 2), (2.0, 2.0)), ((4,), (4.0,)), ((4, 1), (8 / 3, 8 / 3))],
)
def test_trainings_share_time_if_threads_exceed_cores(threads, expected):
    slots = []
    for number in threads:
        receive(train_in(slots, CPU_DEVICE, number), Phase, "training")
    share_device_time(slots, 4.0, cores=2)
    for slot in slots:
        progress(slot, 4.0)
    assert seconds_of(slots) == pytest.approx(list(expected))


def test_only_lanes_of_one_process_share_its_speed():
    """Processes on two nodes may have the same pid, but do not share their speed."""
    slots = []
    for device in (GPU, GPU, replace(GPU, uuid="GPU-of-another-node")):
        slot = train_in(slots, device)
        slot.worker.process.pid = 7
        for batch, seconds in ((1, 1.0), (2, 2.0)):
            receive(slot, Progress, 0, batch, 2, seconds)
    speeds = [progress.images_per_second for progress in list_lease_progress(slots).values()]
    assert speeds == [32.0, 32.0, 64.0]
