"""Final models that train on several devices of a daemon: the slots that they use, and equal scores after every
interruption.
"""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from sqlalchemy import select

from eatnas_daemon.devices.model import CPU_DEVICE, CUDA, DeviceSnapshot
from eatnas_daemon.devices.monitor import DeviceMonitor
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.options import DeviceOptions
from eatnas_daemon.devices.probe import probe_devices
from eatnas_daemon.gpus.scheduler import GpuScheduler
from eatnas_daemon.gpus.worker_scheduler import NoGpus
from eatnas_daemon.supervision.dispatcher import Dispatcher
from eatnas_daemon.supervision.search_holds import SearchHolds
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.slots_for_ranks import count_needed, split_for_training, without_taken
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db.checkpoint_files import checkpoint_folder
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.arithmetic import NATIVE
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.holds import list_holds
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import attempt
from eatnas_db.searches.prepared_births import LeftToDaemon
from eatnas_db.searches.retrain import create_final_training
from eatnas_db.settings import load_settings
from support.fake_nvml import GIB, FakeGpu, FakeNvml
from support.searches import FAST_WORKER
from support.waiting import eventually

SMALL = {
    "data": {"name": "digits", "train_images": 128, "validation_images": 128},
    "training": {"epochs": 1, "batch_size": 32, "augment": "none", "checkpoint_seconds": 0.1},
    "evolution": {"population": 2, "tournament": 2, "lag": 2},
    "objective": {"max_mult_adds": 1_500_000, "target_mult_adds": 1_000_000},
    "budget": {"candidates": 2},
}
REAL = ("-m", "eatnas_training.worker")
DAEMON = """
import sys

from eatnas_db.settings import load_settings
from support.searches import supervise_search

supervise_search(load_settings({}, sys.argv[1]), 2, ("-m", "eatnas_training.worker"), only=sys.argv[2])
"""
QUICK = Timeouts(tick=0.02, database=0.1, restart=0.05, checkpoint_cleanup=0.0, device_check=0.05)


def slot_on(devices=0, *, on_gpu=False, staffed=True):
    """Return a slot whose worker trains on `devices` devices, or is idle if `devices` is 0."""
    message = SimpleNamespace(training={"devices": devices} if devices > 1 else {})
    training = SimpleNamespace(assignment=SimpleNamespace(message=message)) if devices else None
    worker = SimpleNamespace(training=training) if staffed else None
    return SimpleNamespace(device=CPU_DEVICE, worker=worker, training=training, busy=devices > 0, on_gpu=on_gpu)


def test_each_process_takes_a_slot_of_the_processor():
    slots = [slot_on(2), slot_on(), slot_on(), slot_on(1)]
    assert without_taken([slots[1], slots[2]], slots) == [slots[2]]
    gpu = slot_on(on_gpu=True)
    assert without_taken([gpu, slots[1]], [gpu, *slots[:2]]) == [gpu]


def test_training_takes_all_slots_if_there_are_too_few():
    assert count_needed(8, [slot_on(), slot_on(), slot_on(staffed=False)]) == 2
    assert count_needed(2, [slot_on(on_gpu=True)]) == 1


def test_slots_stay_free_until_a_training_has_enough():
    slots = [slot_on(1), slot_on(), slot_on(on_gpu=True)]
    assert split_for_training(slots[1:], 2, slots) == (None, [slots[2]])
    slots[0] = slot_on()
    assert split_for_training(slots, 2, slots) == (slots[0], [slots[2]])


def start_daemon(settings, name):
    """Start a process that trains a search on two slots."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", DAEMON, str(settings.home), name], env=environment)


def rank_of(daemon):
    """Return the process of rank 1 in a daemon's training, and the worker that started this process."""
    for process in psutil.Process(daemon.pid).children(recursive=True):
        with suppress(psutil.Error):
            if "eatnas_training.rank" in process.cmdline():
                return process, process.parent()
    return None


def has_files(folder, pattern):
    return any(folder.glob(pattern))


def train(settings, name, victims=()):
    """Train final models on two slots. Kill one victim after the first checkpoint of each attempt, until none is left.

    A victim is the daemon, the worker or the rank.
    """
    with read_transaction(open_record(settings.database_url)) as connection:
        folder = settings.artifacts / checkpoint_folder(get_search(connection, name).id)
    daemon = start_daemon(settings, name)
    try:
        for number, victim in enumerate(victims, start=1):
            eventually(partial(has_files, folder, f"c*-a{number}-*.ckpt"), 300.0)
            rank, worker = eventually(partial(rank_of, daemon), 300.0)
            {"daemon": daemon, "worker": worker, "rank": rank}[victim].kill()
            if victim == "daemon":
                daemon.wait()
                rank.wait(300.0)
                daemon = start_daemon(settings, name)
        assert daemon.wait(timeout=600) == 0
    finally:
        daemon.kill()
        daemon.wait()
    with read_transaction(open_record(settings.database_url)) as connection:
        search_id = get_search(connection, name).id
        rows = select(attempt.c.outcome, attempt.c.message).join(candidate).where(candidate.c.search_id == search_id)
        attempts = connection.execute(rows.order_by(attempt.c.number)).all()
        assert list(list_violations(open_record(settings.database_url), settings.artifacts, whole_files=True)) == []
        return get_fingerprint(connection, search_id).sha256, attempts


@pytest.fixture(scope="module")
def calm(tmp_path_factory, home, supervise):
    """Return a home with an untrained final model on two devices, its search, and the undisturbed fingerprint."""
    folder = tmp_path_factory.mktemp("calm") / "home"
    settings = home(folder, **SMALL)
    supervise(settings, 1)
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        source = create_final_training(connection, "s", seeds=1, epochs=1, now=5.0)
    supervise(settings, 1, REAL, only=source)
    with transaction(engine) as connection:
        final = {"devices": 2, "from": source, "ema_decay": 0.9}
        name = create_final_training(connection, "s", seeds=1, epochs=12, final=final, now=5.0)
    engine.dispose()
    untrained = shutil.copytree(folder, folder.with_name("untrained"))
    fingerprint, attempts = train(settings, name)
    assert [outcome for outcome, _ in attempts] == ["scored"]
    return untrained, name, fingerprint


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victims", [["rank", "daemon"], pytest.param(["worker"], marks=pytest.mark.soak)])
def test_two_ranks_have_the_same_scores_after_any_kill(tmp_path, calm, victims):
    untrained, name, expected = calm
    settings = load_settings({}, str(shutil.copytree(untrained, tmp_path / "home")))
    fingerprint, attempts = train(settings, name, victims)
    assert fingerprint == expected
    assert len(attempts) == len(victims) + 1
    if victims[0] == "rank":
        assert attempts[0].message.startswith("rank 1 was killed by SIGKILL")


@pytest.fixture
def gpu_scheduler(tmp_path):
    """Return the scheduler of a daemon that uses a fake GPU."""
    nvml = Nvml(FakeNvml(FakeGpu("GPU-aaaa"), worker_bytes=GIB))
    (tmp_path / "locks").mkdir()
    monitor = DeviceMonitor(
        lambda: probe_devices(nvml, tmp_path / "locks"), interval_seconds=0.02, timeout_seconds=30.0
    )
    scheduler = GpuScheduler(monitor, DeviceOptions(use_cpu=False), KeyedRng(1, "yield"), folder=tmp_path / "locks")
    monitor.snapshots()
    yield scheduler
    scheduler.close()


def test_daemon_with_gpus_sets_the_search_aside(tmp_path, home, supervise, gpu_scheduler):
    settings = home(tmp_path / "home", budget__candidates=6)
    options = {"program": FAST_WORKER, "timeouts": QUICK}
    supervise(settings, 2, **options)
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        name = create_final_training(connection, "s", seeds=1, final={"devices": 2}, now=5.0)
    holds = []

    def stop_with_a_hold(supervisor):
        with read_transaction(engine) as connection:
            holds[:] = list_holds(connection, get_search(connection, name).id)
        if holds:
            supervisor.stop()

    supervise(settings, 0, only=name, gpu_scheduler=gpu_scheduler, on_tick=stop_with_a_hold, **options)
    assert holds[0].reason.startswith("final.devices=2 works on CPUs only, but this daemon uses GPUs;")
    with read_transaction(engine) as connection:
        assert get_search(connection, name).born == 1
        of_final = select(attempt.c.number).join(candidate).where(candidate.c.origin == "final")
        assert connection.execute(of_final).all() == []


def test_slot_of_the_processor_is_replaced_for_another_arithmetic(tmp_path, home, supervise):
    settings = home(tmp_path / "home", budget__candidates=6, training__arithmetic="portable")
    supervise(settings, 2)
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        name = create_final_training(connection, "s", seeds=1, final={"devices": 2}, now=5.0)
    slots = [
        Slot(number, device)
        for number, device in enumerate((DeviceSnapshot("GPU-a", CUDA, "GPU"), CPU_DEVICE, CPU_DEVICE))
    ]
    for slot, arithmetic in zip(slots, ("portable", NATIVE, NATIVE), strict=True):
        process = SimpleNamespace(pending=False, send=lambda _: None)
        slot.start_worker(process, 0.0, arithmetic)
        slot.worker.worker_id, slot.worker.placement.verified = 1, True
    dispatcher = Dispatcher(settings, 1, slots, NoGpus(), QUICK, name, SearchHolds(1, slots), LeftToDaemon())
    with transaction(engine) as connection:
        assert dispatcher.dispatch(connection, 10.0, 10.0, draining=False).assigned == []
    assert [slot.worker.exiting for slot in slots] == [False, True, False]


def test_trainings_on_two_devices_never_share_two_slots(tmp_path, home, supervise):
    settings = home(tmp_path / "home", budget__candidates=6)
    supervise(settings, 2)
    with transaction(open_record(settings.database_url)) as connection:
        name = create_final_training(connection, "s", seeds=4, epochs=10, final={"devices": 2}, now=5.0)
    busy = set()
    supervise(settings, 2, only=name, on_tick=lambda supervisor: busy.add(sum(slot.busy for slot in supervisor.slots)))
    assert max(busy) == 1
    with read_transaction(open_record(settings.database_url)) as connection:
        assert get_search(connection, name).status == "finished"
