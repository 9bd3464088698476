"""A daemon yields a GPU to other processes, and uses the GPU again later."""

import pytest

from eatnas_daemon.devices.availability import Cause, check_availability
from eatnas_daemon.devices.locks import find_lock_owner
from eatnas_daemon.devices.model import CPU
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.options import DeviceOptions
from eatnas_daemon.devices.probe import probe_devices
from eatnas_daemon.devices.sharing import (
    MAX_BACKOFF_SECONDS,
    MIN_BACKOFF_SECONDS,
    DeviceSharing,
    SharingPolicy,
    next_backoff,
    should_yield,
)
from eatnas_daemon.lock_holder import current_process
from eatnas_db.domain.rng import KeyedRng
from support.devices import UUID, FakeClock, gpu, gpu_process, machine
from support.fake_nvml import GIB, FakeGpu, FakeNvml


def yields_to(*others, policy=SharingPolicy.YIELD):
    """Return whether our worker, which started at 100.0, leaves the device to these processes."""
    worker = gpu_process(1, "me", started_at=100.0, is_eatnas_worker=True)
    device = gpu(free_bytes=16 * GIB, processes=(worker, *others))
    return should_yield(policy, device, check_availability(device, DeviceOptions(), {1}), {1})


def test_worker_alone_stays():
    assert not yields_to()


@pytest.mark.parametrize("started_at", [50.0, 150.0])
def test_worker_yields_unless_the_policy_is_stay(started_at):
    assert yields_to(gpu_process(started_at=started_at))
    assert not yields_to(gpu_process(started_at=started_at), policy=SharingPolicy.STAY)


def test_later_of_two_daemons_yields():
    assert not yields_to(gpu_process(started_at=101.0, is_eatnas_worker=True))
    assert yields_to(gpu_process(started_at=99.0, is_eatnas_worker=True))


def test_worker_yields_if_any_process_will_not():
    assert yields_to(gpu_process(started_at=101.0, is_eatnas_worker=True), gpu_process(started_at=102.0))


def test_worker_yields_to_unattributed_memory(probe_gpus):
    (device,) = probe_gpus(FakeGpu(UUID, used=12 * GIB))
    alone, shared = (check_availability(device, DeviceOptions(), {1}, worker_bytes=size * GIB) for size in (12, 4))
    assert not should_yield(SharingPolicy.YIELD, device, alone, {1})
    assert should_yield(SharingPolicy.YIELD, device, shared, {1})


def test_backoff_doubles_up_to_a_limit_and_is_random():
    rng, count, shares = KeyedRng(1, "yield"), 0, []
    for _ in range(12):
        count, wait = next_backoff(count, 1.0, rng)
        longest = min(MIN_BACKOFF_SECONDS * 2 ** (count - 1), MAX_BACKOFF_SECONDS)
        assert longest / 2 <= wait < longest
        shares.append(wait / longest)
    assert len(set(shares)) == len(shares)
    assert next_backoff(count, MAX_BACKOFF_SECONDS, rng)[0] == 1


@pytest.mark.parametrize("seed", range(50))
def test_two_daemons_stop_evicting_each_other(seed):
    """Each daemon notices the other daemon's worker only after some seconds, by its memory. Then both workers leave."""
    notice_seconds = 5.0
    rngs = [KeyedRng(seed, "yield", number) for number in (1, 2)]
    counts, starts = [0, 0], [0.0, 0.0]
    while max(starts) - min(starts) <= notice_seconds:
        assert max(counts) < 20
        left = max(starts) + notice_seconds
        for number in (0, 1):
            counts[number], wait = next_backoff(counts[number], left - starts[number], rngs[number])
            starts[number] = left + wait


@pytest.fixture
def new_sharing(tmp_path):
    """Return a function that creates a daemon's `DeviceSharing` of fake GPUs, and returns it with the GPUs and the
    clock.
    """
    made = []

    def make(*gpus, **options):
        library, clock = FakeNvml(*gpus), FakeClock()
        nvml = Nvml(library)
        sharing = DeviceSharing(
            lambda: [device for device in probe_devices(nvml, tmp_path) if device.kind != CPU],
            DeviceOptions(),
            KeyedRng(1, "yield"),
            folder=tmp_path,
            monotonic=clock,
            **options,
        )
        made.append(sharing)
        return sharing, library.gpus, clock

    yield make
    for sharing in made:
        sharing.close()


def test_device_is_locked_until_its_last_worker_leaves(new_sharing, tmp_path, start_process):
    sharing, _, _ = new_sharing(FakeGpu(UUID))
    (free,) = sharing.statuses({})
    assert sharing.acquire(free.device)
    worker = start_process().pid
    (own,) = sharing.statuses({UUID: [worker]})
    assert own.availability.free
    assert find_lock_owner(UUID, tmp_path).process == current_process()
    sharing.statuses({})
    assert find_lock_owner(UUID, tmp_path) is None


def test_device_locked_by_another_daemon_is_refused(new_sharing):
    first, _, _ = new_sharing(FakeGpu(UUID))
    second, _, _ = new_sharing(FakeGpu(UUID))
    (status,) = second.statuses({})
    assert first.acquire(status.device)
    assert not second.acquire(status.device)
    (status,) = second.statuses({})
    assert status.availability.cause is Cause.LOCKED


def test_yielded_device_is_used_again_after_the_backoff(new_sharing, start_process):
    sharing, (card,), clock = new_sharing(FakeGpu(UUID))
    worker, other = start_process().pid, start_process().pid
    assert sharing.acquire(sharing.statuses({})[0].device)
    card.compute = [(worker, GIB), (other, GIB)]
    (status,) = sharing.statuses({UUID: [worker]})
    assert status.evict
    card.compute = [(worker, GIB)]
    (status,) = sharing.statuses({UUID: [worker]})
    assert status.evict
    assert not status.availability.free
    card.compute = []
    (status,) = sharing.statuses({})
    assert (status.evict, status.availability.cause) == (False, Cause.BACKOFF)
    clock.now += MIN_BACKOFF_SECONDS
    assert sharing.statuses({})[0].availability.free


def test_no_further_worker_starts_beside_workers_that_stay(new_sharing, start_process):
    sharing, (card,), _ = new_sharing(FakeGpu(UUID), policy=SharingPolicy.STAY)
    worker, other = start_process().pid, start_process().pid
    assert sharing.acquire(sharing.statuses({})[0].device)
    card.compute = [(worker, GIB), (other, GIB)]
    (status,) = sharing.statuses({UUID: [worker]})
    assert (status.evict, status.availability.free) == (False, False)


def test_cpu_needs_no_lock(new_sharing, tmp_path):
    sharing, _, _ = new_sharing()
    assert sharing.acquire(machine()[-1])
    assert list(tmp_path.iterdir()) == []
