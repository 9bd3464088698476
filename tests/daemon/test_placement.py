"""Searches on GPUs, with simulated workers in real processes on devices of a fake NVML library."""

import itertools
import subprocess
import threading
import time
from dataclasses import replace

import psutil
import pynvml
import pytest
from sqlalchemy import func, select

from eatnas_daemon.devices.availability import Cause
from eatnas_daemon.devices.locks import find_lock_owner
from eatnas_daemon.devices.monitor import DeviceMonitor
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.options import DeviceOptions
from eatnas_daemon.devices.probe import probe_devices
from eatnas_daemon.devices.sharing import MIN_BACKOFF_SECONDS, SharingPolicy
from eatnas_daemon.gpus.scheduler import GpuScheduler
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db import hosts
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.queries.ranking import list_best
from eatnas_db.queries.utilisation import get_utilisation
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.schema.searches import search, step
from eatnas_db.schema.trainings import attempt, epoch, lease, provenance, score
from support.fake_nvml import GIB, FakeGpu, FakeNvml, workers_on
from support.searches import fetch_rows
from support.simulated_worker import SIMULATED_WORKER
from support.slots import is_training, running_pid

QUICK = Timeouts(tick=0.02, database=0.1, restart=0.05, checkpoint_cleanup=0.0, device_check=0.05)
SLOW = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.05")
ENDLESS = (*SIMULATED_WORKER, "--seconds-per-epoch", "600")
GPUS = ("GPU-aaaa", "GPU-bbbb")


@pytest.fixture(scope="module")
def expected(tmp_path_factory, home, supervise):
    """Return the fingerprint of the search on two CPU slots."""
    return supervise(home(tmp_path_factory.mktemp("calm") / "home"))


@pytest.fixture
def other_process():
    """Return a process that does not belong to the daemon."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture
def gpus(tmp_path):
    """Return a function that creates fake GPUs, and the scheduler of a daemon that uses these GPUs."""
    schedulers = []

    def make(*cards, device_options=None, scheduler_type=GpuScheduler, **options):
        library = FakeNvml(*(cards or map(FakeGpu, GPUS)), worker_bytes=GIB)
        nvml = Nvml(library)
        locks = tmp_path / "locks"
        locks.mkdir(exist_ok=True)
        timeout = options.pop("timeout_seconds", 30.0)
        monitor = DeviceMonitor(lambda: probe_devices(nvml, locks), interval_seconds=0.02, timeout_seconds=timeout)
        scheduler = scheduler_type(
            monitor, device_options or DeviceOptions(use_cpu=False), KeyedRng(1, "yield"), folder=locks, **options
        )
        schedulers.append(scheduler)
        monitor.snapshots()
        return library, scheduler

    yield make
    for scheduler in schedulers:
        scheduler.close()


def outcomes(settings):
    return {row.outcome for row in fetch_rows(settings, select(attempt.c.outcome))}


def devices_used(settings):
    return {
        row.uuid
        for row in fetch_rows(
            settings, select(device.c.uuid).join(worker).join(attempt, worker.c.id == attempt.c.worker_id)
        )
    }


def training_on(supervisor, uuid):
    return [slot for slot in supervisor.slots if slot.device.uuid == uuid and is_training(slot)]


@pytest.mark.slow
def test_history_on_two_gpus_equals_history_on_cpu(tmp_path, home, supervise, gpus, expected):
    settings = home(tmp_path / "gpus")
    _, scheduler = gpus(*(FakeGpu(uuid, utilisation=5) for uuid in GPUS))
    assert supervise(settings, 0, program=SLOW, gpu_scheduler=scheduler, timeouts=QUICK) == expected
    assert {row.load for row in fetch_rows(settings, select(epoch.c.load))} == {0.05}
    assert devices_used(settings) == set(GPUS)
    known = fetch_rows(
        settings, select(device.c.uuid, device.c.kind, device.c.name, host.c.name.label("host")).join(host)
    )
    assert sorted(known) == [(uuid, "cuda", "NVIDIA Fake", "here") for uuid in GPUS]
    output = fetch_rows(settings, select(provenance.c.device).join(score, score.c.provenance_id == provenance.c.id))
    assert {row.device for row in output} == {"NVIDIA Fake"}


@pytest.mark.slow
def test_used_gpus_are_locked_and_workers_see_one_gpu(tmp_path, home, supervise, gpus):
    _, scheduler = gpus()
    seen = set()

    def observe(supervisor):
        for slot in supervisor.slots:
            if running_pid(slot) and is_training(slot):
                seen.add((slot.device.uuid, psutil.Process(running_pid(slot)).environ()["CUDA_VISIBLE_DEVICES"]))
                assert find_lock_owner(slot.device.uuid, tmp_path / "locks")

    supervise(home(tmp_path / "held"), 0, program=SLOW, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=observe)
    assert seen == {(uuid, uuid) for uuid in GPUS}
    assert not any(find_lock_owner(uuid, tmp_path / "locks") for uuid in GPUS)


@pytest.mark.slow
def test_worker_yields_its_gpu_within_an_epoch(tmp_path, home, supervise, gpus, other_process):
    settings = home(tmp_path / "left")
    library, scheduler = gpus(FakeGpu(GPUS[0]))
    at = []

    def start_other_process(supervisor):
        if not at and training_on(supervisor, GPUS[0]):
            library.gpus[0].compute = [(other_process.pid, GIB)]
            at.append(time.monotonic())
        if at and not workers_on(GPUS[0]):
            at.append(time.monotonic())
        if len(at) > 1 and supervisor.trouble is not None:
            supervisor.stop()

    supervise(settings, 0, program=ENDLESS, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=start_other_process)
    assert at[1] - at[0] < 200
    assert [row.outcome for row in fetch_rows(settings, select(attempt.c.outcome))] == ["released"]
    assert fetch_rows(settings, select(lease)) == []
    (gone,) = fetch_rows(settings, select(worker.c.ending))
    assert f"(pid {other_process.pid}, " in gone.ending
    (first, *_) = fetch_rows(settings, select(candidate.c.state, candidate.c.own_failures, candidate.c.losses))
    assert first == ("pending", 0, 0)


@pytest.mark.slow
def test_search_continues_on_the_other_gpu_after_yielding(tmp_path, home, supervise, gpus, expected, other_process):
    settings = home(tmp_path / "shared")
    library, scheduler = gpus()
    # The second GPU trains nothing before the first GPU is taken. Otherwise, it could do the whole search alone.
    library.gpus[1].compute = [(other_process.pid, GIB)]

    def start_other_process(supervisor):
        if training_on(supervisor, GPUS[0]):
            library.gpus[0].compute, library.gpus[1].compute = [(other_process.pid, GIB)], []

    assert (
        supervise(settings, 0, program=SLOW, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=start_other_process)
        == expected
    )
    assert outcomes(settings) <= {"scored", "released"}
    (row,) = fetch_rows(settings, select(device.c.waits).where(device.c.uuid == GPUS[0]))
    assert f"(pid {other_process.pid}, " in row.waits


@pytest.mark.slow
def test_worker_stays_under_the_stay_policy(tmp_path, home, supervise, gpus, expected, other_process):
    settings = home(tmp_path / "stay")
    library, scheduler = gpus(policy=SharingPolicy.STAY)

    def start_other_process(supervisor):
        first = library.gpus[0]
        if not first.compute and training_on(supervisor, first.uuid):
            first.compute = [(other_process.pid, GIB)]

    assert (
        supervise(settings, 0, program=SLOW, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=start_other_process)
        == expected
    )
    assert outcomes(settings) == {"scored"}


@pytest.mark.slow
def test_paused_gpu_is_left_and_used_again_when_resumed(tmp_path, home, supervise, gpus, expected):
    settings = home(tmp_path / "paused")
    _, scheduler = gpus(FakeGpu(GPUS[0]))
    engine = open_record(settings.database_url)
    output = []

    def change(supervisor):
        with read_transaction(engine) as connection:
            scored = connection.execute(select(search.c.scored)).scalar_one()
            waiting = connection.execute(select(search.c.waiting)).scalar_one()
        if scored >= 3 and not output:
            with transaction(engine) as connection:
                assert hosts.set_device_paused(connection, GPUS[0], 1.0)
            output.append(None)
        if output == [None] and not supervisor.slots and waiting is not None:
            output.append(waiting)
            with transaction(engine) as connection:
                hosts.set_device_paused(connection, GPUS[0], None)

    assert supervise(settings, 0, program=SLOW, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=change) == expected
    assert output[1].startswith("no device is free: GPU 0")
    assert "paused; resume it" in output[1]
    assert outcomes(settings) <= {"scored", "released"}


def test_paused_cpu_is_left(tmp_path, home, supervise):
    settings = home(tmp_path / "processor")
    engine = open_record(settings.database_url)

    def change(supervisor):
        if any(is_training(slot) for slot in supervisor.slots):
            with transaction(engine) as connection:
                hosts.set_device_paused(connection, hosts.cpu_uuid("here"), 1.0)
        if supervisor.trouble is not None:
            supervisor.stop()

    supervise(settings, 1, program=ENDLESS, timeouts=QUICK, on_tick=change)
    assert fetch_rows(settings, select(lease)) == []
    (row,) = fetch_rows(settings, select(search.c.waiting))
    assert row.waiting == "no device is free: CPU: paused; resume it with `eatnas-db devices resume`"


@pytest.mark.slow
def test_broken_gpu_is_left_and_the_search_continues(tmp_path, home, supervise, gpus, expected, other_process):
    settings = home(tmp_path / "broken")
    library, scheduler = gpus()
    # The second GPU trains nothing before the first GPU breaks. Otherwise, it could do the whole search alone.
    library.gpus[1].compute = [(other_process.pid, GIB)]

    def break_gpu(supervisor):
        if training_on(supervisor, GPUS[0]):
            library.gpus[0].errors["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_GPU_IS_LOST
            library.gpus[1].compute = []

    assert supervise(settings, 0, program=SLOW, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=break_gpu) == expected
    assert outcomes(settings) <= {"scored", "released"}
    (row,) = fetch_rows(settings, select(device.c.waits).where(device.c.uuid == GPUS[0]))
    assert row.waits == "NVML error: GPU is lost"
    assert devices_used(settings) == set(GPUS)


def test_hanging_driver_does_not_block_a_tick(tmp_path, home, supervise, gpus):
    library, scheduler = gpus(timeout_seconds=0.3)
    hung, ticks = threading.Event(), []
    library.before_memory = lambda: hung.is_set() and time.sleep(3600)

    def observe(supervisor):
        if any(is_training(slot) for slot in supervisor.slots):
            hung.set()
        ticks.append(time.monotonic())
        if hung.is_set() and not supervisor.slots:
            supervisor.stop()

    settings = home(tmp_path / "hung")
    supervise(settings, 0, program=ENDLESS, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=observe)
    assert max(later - earlier for earlier, later in itertools.pairwise(ticks)) < 200
    assert "has not responded" in fetch_rows(settings, select(device.c.waits))[0].waits
    assert outcomes(settings) == {"released"}


def test_worker_on_the_wrong_gpu_is_killed(tmp_path, home, supervise, gpus):
    first, second = FakeGpu(GPUS[0]), FakeGpu(GPUS[1], shown_as=GPUS[0])
    # Workers that are meant for the first GPU run on the second GPU.
    first.shown_as = "GPU-none"
    _, scheduler = gpus(first, second)

    def observe(supervisor):
        if any("started on" in status.availability.reason for status in scheduler.statuses):
            supervisor.stop()

    settings = home(tmp_path / "misplaced")
    supervise(settings, 0, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=observe)
    endings = [row.ending for row in fetch_rows(settings, select(worker.c.ending)) if row.ending]
    assert f"a worker for {GPUS[0]} started on {GPUS[1]}" in endings
    assert not fetch_rows(
        settings, select(attempt).join(worker, worker.c.id == attempt.c.worker_id).where(worker.c.device_id == 1)
    )


def test_gpu_without_successful_worker_start_is_excluded(tmp_path, home, supervise, gpus):
    _, scheduler = gpus(FakeGpu(GPUS[0]))
    settings = home(tmp_path / "no-start")

    def observe(supervisor):
        if supervisor.trouble is not None:
            supervisor.stop()

    broken = ("-m", "eatnas_training.no_such_module")
    supervise(settings, 0, program=broken, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=observe)
    (row,) = fetch_rows(settings, select(search.c.waiting))
    assert "workers end before they are ready; see logs/worker-0.log" in row.waiting


@pytest.mark.slow
def test_ended_worker_is_not_taken_for_another_user(tmp_path, home, supervise, gpus):
    library, scheduler = gpus()
    library.worker_bytes = 3 * GIB // 2
    output = set()
    settings = home(tmp_path / "replaced")
    supervise(
        settings,
        0,
        program=SLOW,
        gpu_scheduler=scheduler,
        timeouts=replace(QUICK, trainings_per_worker=1, device_check=0.01),
        on_tick=lambda _: output.update(status.availability.cause for status in scheduler.statuses),
    )
    assert output == {Cause.FREE}


def test_unavailable_gpu_reports_the_workers_reason(tmp_path, home, supervise, gpus):
    _, scheduler = gpus(FakeGpu(GPUS[0]))
    settings = home(tmp_path / "unfit")
    seen = set()

    def observe(supervisor):
        seen.update(
            status.availability.reason
            for status in scheduler.statuses
            if status.availability.cause is Cause.QUARANTINED
        )
        if supervisor.trouble is not None:
            supervisor.stop()

    unfit = (*SIMULATED_WORKER, "--unavailable", "torch was built without CUDA")
    supervise(settings, 0, program=unfit, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=observe)
    assert seen == {"workers cannot be started: torch was built without CUDA"}
    (row,) = fetch_rows(settings, select(search.c.waiting))
    assert row.waiting == f"no device is free: GPU 0 (NVIDIA Fake, {GPUS[0]}): {seen.pop()}"
    assert not fetch_rows(settings, select(attempt))


@pytest.mark.slow
def test_search_waits_for_a_gpu_in_use_and_reports_it(tmp_path, home, supervise, gpus, expected, other_process):
    settings = home(tmp_path / "waiting")
    library, scheduler = gpus(FakeGpu(GPUS[0], compute=[(other_process.pid, GIB)]))
    output = set()

    def leave(supervisor):
        output.add(supervisor.trouble)
        if supervisor.trouble is not None:
            library.gpus[0].compute = []

    assert supervise(settings, 0, program=SLOW, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=leave) == expected
    (words,) = output - {None}
    assert words.startswith(f"no device is free: GPU 0 (NVIDIA Fake, {GPUS[0]}): ")
    assert f"(pid {other_process.pid}, " in words


@pytest.mark.slow
def test_workers_on_all_gpus_respect_the_limit(tmp_path, home, supervise, gpus):
    _, scheduler = gpus(max_workers=1)
    most = [0]

    def observe(supervisor):
        most[0] = max(most[0], len(supervisor.slots))

    supervise(home(tmp_path / "most"), 0, program=SLOW, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=observe)
    assert most == [1]


# Several workers on a device


@pytest.mark.slow
def test_workers_share_a_gpu_until_its_memory_is_used(tmp_path, home, supervise, gpus):
    # Each worker takes 1 GiB. A further worker needs 2 GiB for its context and its training.
    _, scheduler = gpus(FakeGpu(GPUS[0], total=5 * GIB), workers_per_device=10)
    settings = home(tmp_path / "packed", training__epochs=1000)
    most, full_at = [0], []

    def observe(supervisor):
        most[0] = max(most[0], sum(slot.busy for slot in supervisor.slots))
        if most[0] == 3 and not full_at:
            full_at.append(time.monotonic())
        if full_at and time.monotonic() > full_at[0] + 1:
            supervisor.stop()

    supervise(settings, 0, program=SLOW, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=observe)
    assert most == [3]


@pytest.mark.slow
def test_device_seconds_of_a_shared_gpu_sum_to_wall_time(tmp_path, home, supervise, gpus):
    settings = home(tmp_path / "shared")
    _, scheduler = gpus(FakeGpu(GPUS[0]), workers_per_device=4)
    # With epochs of this length, even a busy machine has time to start four workers.
    program = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.3")
    supervise(settings, 0, program=program, gpu_scheduler=scheduler, timeouts=QUICK)
    rows = fetch_rows(
        settings, select(attempt.c.started_at, attempt.c.ended_at, attempt.c.device_seconds, attempt.c.step_seconds)
    )
    wall = max(row.ended_at for row in rows) - min(row.started_at for row in rows)
    shared, in_steps = (sum(row[number] for row in rows) for number in (2, 3))
    assert in_steps > 1.2 * shared  # several workers trained at the same time
    assert shared <= 1.02 * wall
    (row,) = fetch_rows(settings, select(search.c.device_seconds))
    assert row.device_seconds == pytest.approx(shared)
    engine = open_record(settings.database_url)
    with read_transaction(engine) as connection:
        use = get_utilisation(connection, 1, time.time())
        last_step = connection.execute(select(func.max(step.c.device_seconds))).scalar_one()
    assert use.device_seconds == pytest.approx(shared)
    assert last_step == pytest.approx(shared)
    assert sum(slot.device_seconds for slot in use.slots) == pytest.approx(shared)
    assert sum(slot.training for slot in use.slots) == pytest.approx(in_steps / use.wall_seconds)


@pytest.mark.slow
def test_measured_memory_limits_the_workers_on_a_gpu(tmp_path, home, supervise, gpus, expected):
    settings = home(tmp_path / "measured")
    _, scheduler = gpus(FakeGpu(GPUS[0]), workers_per_device=10)
    program = (*SLOW, "--peak-bytes", str(9 * GIB))
    engine = open_record(settings.database_url)
    beside = []

    def observe(supervisor):
        with read_transaction(engine) as connection:
            scored = connection.execute(select(search.c.scored)).scalar_one()
        if scored >= 8:  # no training started before the first measurement
            beside.append(sum(slot.busy for slot in supervisor.slots))

    assert supervise(settings, 0, program=program, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=observe) == expected
    assert max(beside) <= 2
    peaks = {
        row.peak_bytes
        for row in fetch_rows(settings, select(attempt.c.peak_bytes).where(attempt.c.outcome == "scored"))
    }
    assert peaks == {9 * GIB}
    (row,) = fetch_rows(settings, select(search.c.memory_share))
    assert row.memory_share > 1


@pytest.mark.slow
def test_out_of_memory_is_retried_alone_then_with_half_batches(tmp_path, home, supervise):
    settings = home(tmp_path / "memory")
    company = []

    def observe(supervisor):
        busy = [slot.training.assignment.leased for slot in supervisor.slots if slot.busy]
        if any(leased.memory_fallback for leased in busy):
            company.append(len(busy))

    program = (*SLOW, "--out-of-memory-on", "9", "--out-of-memory-attempts", "2")
    supervise(settings, 3, program=program, timeouts=QUICK, on_tick=observe)
    of_nine = select(attempt.c.outcome, attempt.c.failure).where(attempt.c.candidate_id == 9).order_by(attempt.c.number)
    failed = ("failed", "out_of_memory")
    assert [tuple(row) for row in fetch_rows(settings, of_nine)] == [failed, failed, ("scored", None)]
    epochs = fetch_rows(settings, select(epoch.c.attempt).where(epoch.c.candidate_id == 9))
    assert {row.attempt for row in epochs} == {3}
    assert set(company) == {1}
    with read_transaction(open_record(settings.database_url)) as connection:
        best = list_best(connection, 1, 24)
    assert {one.id: one.deviation for one in best if one.deviation} == {9: "half micro-batch"}
    output = select(provenance.c.recipe).join(score, score.c.provenance_id == provenance.c.id)
    (row, *_) = fetch_rows(settings, output.where(score.c.candidate_id == 9))
    assert row.recipe["micro_batch"] == row.recipe["batch_size"] // 2


@pytest.mark.slow
def test_search_respects_its_slot_limit(tmp_path, home, supervise, expected):
    settings = home(tmp_path / "limited", budget__slots=1)
    busy = set()

    def observe(supervisor):
        busy.add(sum(slot.busy for slot in supervisor.slots))

    assert supervise(settings, 3, program=SLOW, timeouts=QUICK, on_tick=observe) == expected
    assert busy == {0, 1}


@pytest.mark.slow
def test_worker_is_replaced_after_its_number_of_trainings(tmp_path, home, supervise, expected):
    settings = home(tmp_path / "worn")
    assert supervise(settings, 1, timeouts=replace(QUICK, trainings_per_worker=7)) == expected
    endings = [row.ending for row in fetch_rows(settings, select(worker.c.ending))]
    assert len(endings) == 4
    assert endings[0] == "replaced by a fresh worker: it has trained 7 candidates"
    assert outcomes(settings) == {"scored"}


class RecordingScheduler(GpuScheduler):
    """Records the results of trainings instead of acting on them."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.failures, self.successes = [], 0

    def record_failure(self, uuid, candidate_id):
        self.failures.append(candidate_id)

    def record_success(self, uuid):
        self.successes += 1


@pytest.mark.slow
def test_worker_is_replaced_after_a_fatal_failure(tmp_path, home, supervise, gpus, expected):
    settings = home(tmp_path / "broken")
    _, scheduler = gpus(FakeGpu(GPUS[0]), scheduler_type=RecordingScheduler)
    assert (
        supervise(settings, 0, program=(*SLOW, "--fatal-on", "5"), gpu_scheduler=scheduler, timeouts=QUICK) == expected
    )
    assert (scheduler.failures, scheduler.successes) == ([5], 24)
    ended = fetch_rows(settings, select(attempt.c.candidate_id, attempt.c.outcome).where(attempt.c.outcome != "scored"))
    assert ended == [(5, "failed")]
    endings = [row.ending for row in fetch_rows(settings, select(worker.c.ending).order_by(worker.c.id))]
    assert endings == ["replaced by a fresh worker: the worker cannot continue after this failure", "the daemon left"]


def test_gpu_is_excluded_longer_after_each_series_of_failures(gpus):
    now = [0.0]
    _, scheduler = gpus(FakeGpu(GPUS[0]), monotonic=lambda: now[0])

    def waits():
        slots = []
        scheduler.update(slots, (), QUICK)
        return not slots

    scheduler.record_failure(GPUS[0], 1)
    scheduler.record_failure(GPUS[0], 1)  # the candidate itself may be the cause
    assert not waits()
    scheduler.record_failure(GPUS[0], 2)
    assert waits()
    assert "the workers of several candidates in a row failed on it" in scheduler.statuses[0].availability.reason
    for longest in (MIN_BACKOFF_SECONDS, 2 * MIN_BACKOFF_SECONDS, 4 * MIN_BACKOFF_SECONDS):
        now[0] += longest / 2 - 1
        assert waits()
        now[0] += longest / 2 + 1
        assert not waits()
        scheduler.record_failure(GPUS[0], 1)
        scheduler.record_failure(GPUS[0], 2)
    assert waits()
    scheduler.record_success(GPUS[0])
    assert not waits()
    scheduler.record_failure(GPUS[0], 1)
    scheduler.record_success(GPUS[0])
    scheduler.record_failure(GPUS[0], 2)
    assert not waits()


class Storm:
    """Causes faults on random GPUs. Each fault lasts for several ticks."""

    def __init__(self, library, engine, other_pid, seed):
        self.library, self.engine, self.pid, self.seed = library, engine, other_pid, seed
        self.kinds, self.active, self.ticks = set(), [], 0

    def tick(self, _):
        self.ticks += 1
        over = [one for one in self.active if one[0] <= self.ticks]
        self.active = [one for one in self.active if one not in over]
        for _, end in over:
            end()
        draw = KeyedRng(self.seed, "storm", self.ticks)
        if draw.randbelow(4) or len(self.active) >= 2:
            return
        gpu = self.library.gpus[draw.randbelow(len(self.library.gpus))]
        kind = ("other_users", "lost_devices", "broken_drivers", "kills", "pauses")[draw.randbelow(5)]
        end = getattr(self, kind)(gpu)
        if end is not None:
            self.kinds.add(kind)
            self.active.append((self.ticks + 10 + draw.randbelow(20), end))

    def other_users(self, gpu):
        gpu.compute = [(self.pid, GIB)]
        return gpu.compute.clear

    def lost_devices(self, gpu):
        gpu.errors["nvmlDeviceGetHandleByIndex"] = pynvml.NVML_ERROR_GPU_IS_LOST
        return gpu.errors.clear

    def broken_drivers(self, _):
        self.library.driver_error = pynvml.NVML_ERROR_UNKNOWN
        return lambda: setattr(self.library, "driver_error", None)

    def kills(self, gpu):
        workers = workers_on(gpu.uuid)
        for pid in workers:
            psutil.Process(pid).kill()
        return (lambda: None) if workers else None

    def pauses(self, gpu):
        # Pausing fails before the first worker of the GPU starts, because the database has no row for the GPU yet.
        return (lambda: self._pause(gpu, None)) if self._pause(gpu, 1.0) else None

    def _pause(self, gpu, at):
        with transaction(self.engine) as connection:
            return hosts.set_device_paused(connection, gpu.uuid, at)


@pytest.mark.slow
def test_history_survives_a_storm_of_gpu_faults(tmp_path, home, supervise, gpus, expected, other_process):
    settings = home(tmp_path / "storm")
    library, scheduler = gpus(*(FakeGpu(f"GPU-{letter * 4}") for letter in "abcd"), min_backoff_seconds=0.1)
    storm = Storm(library, open_record(settings.database_url), other_process.pid, seed=1)
    program = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.3")
    assert (
        supervise(settings, 0, program=program, gpu_scheduler=scheduler, timeouts=QUICK, on_tick=storm.tick) == expected
    )
    assert storm.kinds == {"other_users", "lost_devices", "broken_drivers", "kills", "pauses"}
    assert {"scored", "released", "lost"} <= outcomes(settings) | {
        row.failure for row in fetch_rows(settings, select(attempt.c.failure))
    }
    assert not fetch_rows(settings, select(candidate.c.id).where(candidate.c.state == "failed"))
