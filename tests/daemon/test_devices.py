"""Choosing devices. The GPUs are a fake of NVML's library; the processes, the locks and the processor are real."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import psutil
import pynvml
import pytest
from fake_nvml import GIB, FakeGpu, FakeNvml

from eatnas_daemon.devices.availability import Availability, Cause, judge
from eatnas_daemon.devices.capacity import cpu_slots, first_free, slots_here
from eatnas_daemon.devices.locks import hold, holder_of, lock_file
from eatnas_daemon.devices.model import CPU, PROCESSOR, DeviceSnapshot, Holder, Identity
from eatnas_daemon.devices.monitor import DeviceMonitor
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.options import DeviceOptions, wishes_of
from eatnas_daemon.devices.placement import misplaced, worker_environment
from eatnas_daemon.devices.probe import measure_processor, probe, who_is
from eatnas_daemon.devices.sharing import (
    LONGEST_WAIT,
    SHORTEST_WAIT,
    DeviceLocks,
    DeviceStatus,
    Policy,
    backoff,
    reasons_in_words,
    should_yield,
)
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.errors import ConflictError, NotFoundError

UUID = "GPU-11111111-aaaa-bbbb-cccc-000000000000"
NO_SUCH_PID = 2**31 - 1


@pytest.fixture
def process():
    """Starts real processes that wait; they are gone after the test."""
    started = []

    def start(*command):
        one = subprocess.Popen(command or ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(one)
        return one

    yield start
    for one in started:
        one.kill()
        one.communicate()


@pytest.fixture
def look(tmp_path):
    def at(*gpus):
        return [device for device in probe(Nvml(FakeNvml(*gpus)), folder=tmp_path) if device.kind != CPU]

    return at


def gpu(**facts):
    idle = {"total_bytes": 24 * GIB, "free_bytes": 24 * GIB}
    return DeviceSnapshot(**{"uuid": UUID, "kind": "cuda", "name": "NVIDIA Pretended", "index": 0, **idle, **facts})


def person(pid=100, owner="alice", name="python", since=50.0, polite=False, kind="compute"):
    return Holder(pid, kind, 4 * GIB, Identity(owner, name, since, polite))


def test_an_idle_device_is_free_and_the_words_say_how_much(look):
    (device,) = look(FakeGpu(UUID, used=GIB // 2))
    verdict = judge(device, DeviceOptions(), (), 8 * GIB)
    assert verdict.free
    assert verdict.reason == "23.5 GiB of 24.0 GiB of memory free, 0% busy"
    assert device.name == "NVIDIA Pretended"


def test_a_foreign_process_that_computes_is_told_with_its_program_pid_and_owner(look, process):
    other = process()
    (device,) = look(FakeGpu(UUID, used=4 * GIB, compute=[(other.pid, 4 * GIB)]))
    verdict = judge(device, DeviceOptions())
    known = psutil.Process(other.pid)
    assert not verdict.free
    assert verdict.cause is Cause.FOREIGN
    assert verdict.reason == f"{known.name()} (pid {other.pid}, {known.username()}) computes on it"


def test_several_foreign_processes_are_counted(look, process):
    (device,) = look(FakeGpu(UUID, compute=[(process().pid, 1), (process().pid, 1), (process().pid, 1)]))
    assert judge(device, DeviceOptions()).reason.endswith("computes on it, and 2 more")


def test_our_own_workers_are_not_foreign(look, process):
    worker = process()
    (device,) = look(FakeGpu(UUID, used=4 * GIB, utilisation=99, compute=[(worker.pid, 4 * GIB)]))
    assert judge(device, DeviceOptions(), {worker.pid}, GIB).free


def test_a_process_that_only_draws_does_not_count(look, process):
    (device,) = look(FakeGpu(UUID, used=GIB, utilisation=5, graphics=[(process().pid, GIB)]))
    assert judge(device, DeviceOptions(), (), GIB).free


def test_one_that_draws_and_computes_counts(look, process):
    both = process().pid
    (device,) = look(FakeGpu(UUID, compute=[(both, GIB)], graphics=[(both, GIB)]))
    assert judge(device, DeviceOptions()).cause is Cause.FOREIGN


@pytest.mark.parametrize("what", ["name", "username"])
def test_an_allowed_program_or_user_does_not_count_however_busy(look, process, what):
    other = process()
    allowed = getattr(psutil.Process(other.pid), what)()
    (device,) = look(FakeGpu(UUID, used=2 * GIB, utilisation=90, compute=[(other.pid, 2 * GIB)]))
    assert judge(device, DeviceOptions(allowed=frozenset({allowed})), (), GIB).free


def test_too_little_memory_is_told_with_both_figures(look):
    (device,) = look(FakeGpu(UUID, total=8 * GIB, used=GIB // 2))
    verdict = judge(device, DeviceOptions(), (), 12 * GIB)
    assert verdict.cause is Cause.MEMORY
    assert verdict.reason == "12.0 GiB of memory are needed and 7.5 GiB are free"


def test_a_busy_device_without_a_process_is_somebody_elses(look):
    (device,) = look(FakeGpu(UUID, utilisation=87))
    verdict = judge(device, DeviceOptions())
    assert verdict.cause is Cause.BUSY
    assert "87% busy" in verdict.reason


def test_where_the_driver_shows_the_hosts_pids_memory_decides(look):
    taken = FakeGpu(UUID, used=9 * GIB, compute=[(NO_SUCH_PID, 9 * GIB)])
    idle = FakeGpu("GPU-2", used=GIB // 2, compute=[(NO_SUCH_PID, None)])
    first, second = look(taken, idle)
    verdict = judge(first, DeviceOptions())
    assert verdict.cause is Cause.FOREIGN
    assert "not of this container; so memory decides, and 9.0 GiB are in use" in verdict.reason
    assert judge(second, DeviceOptions()).free
    assert judge(second, DeviceOptions()).reason.endswith("memory decides")


def test_where_the_driver_shows_no_process_memory_decides_with_what_our_workers_say(look):
    (device,) = look(FakeGpu(UUID, used=6 * GIB, utilisation=95))
    assert judge(device, DeviceOptions()).cause is Cause.FOREIGN
    assert judge(device, DeviceOptions(), {7}, GIB, own_bytes=5 * GIB).free
    verdict = judge(device, DeviceOptions(), {7}, GIB, own_bytes=GIB)
    assert verdict.cause is Cause.FOREIGN
    assert "6.0 GiB are in use, more than our workers hold" in verdict.reason


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND])
def test_a_driver_that_does_not_tell_processes_is_no_broken_one(look, error):
    silent = {"nvmlDeviceGetComputeRunningProcesses": error}
    (device,) = look(FakeGpu(UUID, errors=silent))
    verdict = judge(device, DeviceOptions())
    assert verdict.free
    assert "does not say which processes use it" in verdict.reason


def test_figures_that_a_device_does_not_have_are_left_out(look):
    names = ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMigMode", "nvmlDeviceGetTotalEccErrors")
    (device,) = look(FakeGpu(UUID, errors=dict.fromkeys(names, pynvml.NVML_ERROR_NOT_SUPPORTED)))
    assert judge(device, DeviceOptions()).reason == "24.0 GiB of 24.0 GiB of memory free"


def test_memory_errors_are_told(look):
    (device,) = look(FakeGpu(UUID, memory_errors=3))
    assert "3 memory errors" in judge(device, DeviceOptions()).reason


def test_a_device_in_mig_mode_is_refused_with_the_way_out(look):
    (device,) = look(FakeGpu(UUID, mig=True))
    verdict = judge(device, DeviceOptions())
    assert verdict.cause is Cause.REFUSED
    assert f"`nvidia-smi -i {UUID} -mig 0` turns it off" in verdict.reason


def test_a_device_shut_by_an_administrator_is_refused(look):
    (device,) = look(FakeGpu(UUID, prohibited=True))
    assert "shut it for computing" in judge(device, DeviceOptions()).reason


def test_a_device_that_takes_one_process_gets_one_worker(look):
    (device,) = look(FakeGpu(UUID, exclusive=True))
    assert judge(device, DeviceOptions()).free
    verdict = judge(device, DeviceOptions(), {7}, own_bytes=GIB)
    assert (verdict.cause, verdict.reason) == (Cause.FULL, "it takes one process at a time (compute mode exclusive)")


def test_a_device_without_memory_of_its_own_has_the_machines(look):
    (device,) = look(FakeGpu(UUID, errors={"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NOT_SUPPORTED}))
    assert 0 < device.free_bytes < psutil.virtual_memory().total
    assert judge(device, DeviceOptions()).free
    no_permission = {"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NO_PERMISSION}
    (unknown,) = look(FakeGpu(UUID, errors=no_permission))
    assert judge(unknown, DeviceOptions()).cause is Cause.BROKEN
    (sliced,) = look(FakeGpu(UUID, mig=True, errors=no_permission))
    assert judge(sliced, DeviceOptions()).cause is Cause.REFUSED


def test_a_device_that_fails_in_the_middle_of_a_look_keeps_its_name_and_the_others_are_seen(tmp_path):
    library = FakeNvml(FakeGpu(UUID), FakeGpu("GPU-2"))
    nvml = Nvml(library)
    probe(nvml, folder=tmp_path)
    library.gpus[0].errors["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_GPU_IS_LOST
    broken, whole, _ = probe(nvml, folder=tmp_path)
    verdict = judge(broken, DeviceOptions())
    assert broken.uuid == UUID
    assert verdict.cause is Cause.BROKEN
    assert verdict.reason == "it does not answer: GPU is lost"
    assert judge(whole, DeviceOptions()).free
    library.gpus[0].errors.clear()
    assert judge(probe(nvml, folder=tmp_path)[0], DeviceOptions()).free
    assert library.sessions == 1


def test_a_device_that_fails_at_the_first_look_is_told_by_its_index(look):
    broken, whole = look(FakeGpu(UUID, errors={"nvmlDeviceGetUUID": pynvml.NVML_ERROR_UNKNOWN}), FakeGpu("GPU-2"))
    assert (broken.index, judge(broken, DeviceOptions()).cause) == (0, Cause.BROKEN)
    assert judge(whole, DeviceOptions()).free


def test_a_device_that_vanishes_is_told_and_the_one_that_takes_its_index_is_another(tmp_path):
    library = FakeNvml(FakeGpu(UUID), FakeGpu("GPU-2"))
    nvml = Nvml(library)
    probe(nvml, folder=tmp_path)
    del library.gpus[0]
    left, gone, _ = probe(nvml, folder=tmp_path)
    assert (left.uuid, left.index) == ("GPU-2", 0)
    assert judge(left, DeviceOptions()).free
    assert gone.uuid == UUID
    assert judge(gone, DeviceOptions()).reason == "the driver does not list it any more"


def test_a_driver_that_breaks_in_the_middle_of_a_look_is_a_sentence_and_is_asked_again(tmp_path):
    library = FakeNvml(FakeGpu(UUID), FakeGpu("GPU-2"))
    nvml = Nvml(library)

    def fail():
        library.driver_error = pynvml.NVML_ERROR_UNKNOWN

    library.before_memory = fail
    assert all(judge(device, DeviceOptions()).cause is Cause.BROKEN for device in probe(nvml, folder=tmp_path)[:-1])
    library.before_memory = lambda: None
    library.driver_error = None
    assert all(judge(device, DeviceOptions()).free for device in probe(nvml, folder=tmp_path)[:-1])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "there is no NVIDIA driver on this machine"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "a restart of the machine mends it"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "may not speak to the NVIDIA driver"),
        (pynvml.NVML_ERROR_UNKNOWN, "the NVIDIA driver does not work: Unknown Error"),
    ],
)
def test_a_driver_that_is_absent_or_broken_is_a_sentence(tmp_path, error, words):
    library = FakeNvml(FakeGpu(UUID))
    library.driver_error = error
    nvml = Nvml(library)
    (processor,) = probe(nvml, folder=tmp_path)
    assert processor.kind == CPU
    assert words in nvml.trouble
    library.driver_error = None
    assert len(probe(nvml, folder=tmp_path)) == 2
    assert nvml.trouble is None


def test_a_driver_without_devices_says_so(tmp_path):
    nvml = Nvml(FakeNvml())
    probe(nvml, folder=tmp_path)
    assert nvml.trouble == "the NVIDIA driver runs, but shows no GPU here"


def test_eight_devices_are_judged_each_for_itself(look, process):
    gpus = [FakeGpu(f"GPU-{number}") for number in range(8)]
    gpus[1].compute = [(process().pid, GIB)]
    gpus[3].mig = True
    gpus[4].utilisation = 100
    gpus[6].errors["nvmlDeviceGetHandleByIndex"] = pynvml.NVML_ERROR_GPU_IS_LOST
    devices = look(*gpus)
    wishes = wishes_of(devices, exclude=["7"])
    verdicts = [judge(device, wishes) for device in devices]
    assert [device.index for device in devices] == list(range(8))
    assert [index for index, verdict in enumerate(verdicts) if verdict.free] == [0, 2, 5]
    assert len({verdict.cause for verdict in verdicts}) == 6


def test_a_process_is_known_by_its_owner_and_program_and_one_that_is_not_there_is_none(process):
    other = process()
    identity = who_is(other.pid)
    assert identity.owner == psutil.Process().username()
    assert not identity.polite
    assert who_is(NO_SUCH_PID) is None


def test_a_worker_of_another_eatnas_db_is_known_as_polite(process):
    program = "import sys; print(flush=True); sys.stdin.read()"
    worker = process(sys.executable, "-c", program, "eatnas_training.worker")
    worker.stdout.readline()  # only then is it surely the program that it was started as
    assert who_is(worker.pid).polite


def test_terminal_codes_in_a_strangers_name_do_not_get_into_the_words():
    assert "\x1b" not in str(person(name="\x1b[2Jpython"))


# DeviceOptions


def test_a_server_of_mps_is_nobody_and_memory_decides():
    server = person(owner="root", name="nvidia-cuda-mps-server")
    assert judge(gpu(holders=(server,)), DeviceOptions()).free
    taken = judge(gpu(holders=(server,), free_bytes=15 * GIB), DeviceOptions())
    assert "MPS" in taken.reason
    assert "9.0 GiB are in use" in taken.reason
    ours = judge(gpu(holders=(server,), free_bytes=15 * GIB), DeviceOptions(), (1,), own_bytes=9 * GIB)
    assert ours.free
    assert judge(gpu(holders=(server, person())), DeviceOptions()).foreign == (person(),)


def test_memory_that_nobody_shows_may_be_allowed():
    desktop = gpu(silent=True, free_bytes=21 * GIB, utilisation=60)
    verdict = judge(desktop, DeviceOptions())
    assert not verdict.free
    assert "`--allow unseen`" in verdict.reason
    assert judge(desktop, wishes_of([desktop], allowed=["unseen"])).free
    assert not judge(desktop, wishes_of([desktop], allowed=["unseen"]), needs_bytes=22 * GIB).free


def three():
    devices = [
        replace(gpu(), uuid=uuid, index=index) for index, uuid in enumerate(("GPU-aa11", "GPU-aa22", "GPU-bb33"))
    ]
    return [*devices, DeviceSnapshot(CPU, CPU, "processor", cores=4, total_bytes=8 * GIB, free_bytes=8 * GIB)]


def used(wishes):
    return [device.uuid for device in three() if judge(device, wishes).free]


def test_without_wishes_every_gpu_is_used_and_the_processor_only_where_there_is_none():
    assert used(wishes_of(three())) == ["GPU-aa11", "GPU-aa22", "GPU-bb33"]
    assert wishes_of(three()[-1:]).processor


def test_the_processor_is_used_where_every_gpu_is_excluded():
    assert used(wishes_of(three(), exclude=["0,1,2"])) == ["cpu"]


def test_parts_of_a_device_in_mig_mode_are_told_as_such():
    mixed = [replace(three()[0], mig=True), *three()[1:]]
    wishes = wishes_of(mixed, environment={"CUDA_VISIBLE_DEVICES": "MIG-41a2"})
    assert "MIG mode" in judge(mixed[0], wishes).reason
    assert "leaves it out" in judge(mixed[1], wishes).reason
    hidden = wishes_of(mixed, environment={"CUDA_VISIBLE_DEVICES": "GPU-bb33"})
    assert "leaves it out" in judge(mixed[0], hidden).reason
    assert "--exclude" in judge(mixed[0], wishes_of(mixed, exclude=["0"])).reason


@pytest.mark.parametrize("words", [["0,GPU-bb33"], ["0", "GPU-bb"], [" GPU-aa11 , 2"]])
def test_devices_are_named_by_index_uuid_or_its_beginning(words):
    assert used(wishes_of(three(), devices=words)) == ["GPU-aa11", "GPU-bb33"]


def test_the_processor_is_used_beside_gpus_where_it_is_named():
    assert used(wishes_of(three(), devices=["1,cpu"])) == ["GPU-aa22", CPU]


def test_what_is_excluded_is_not_used_and_the_words_say_so():
    wishes = wishes_of(three(), exclude=["GPU-aa22"])
    assert used(wishes) == ["GPU-aa11", "GPU-bb33"]
    assert judge(three()[1], wishes).reason == "--exclude names it"


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("7", "did you mean 2?"),
        ("GPU-bb34", "did you mean GPU-bb33?"),
        ("cpus", "did you mean cpu?"),
        ("-1", "known: 0 (GPU-aa11), 1 (GPU-aa22), 2 (GPU-bb33), cpu"),
        ("GPU-aa", "that is how GPU-aa11, GPU-aa22 begin"),
    ],
)
def test_a_device_that_is_not_there_is_refused_and_the_nearest_is_named(word, words):
    with pytest.raises(NotFoundError, match=re.escape(words)):
        wishes_of(three(), devices=[word])


@pytest.mark.parametrize(
    "wishes",
    [{"devices": ["0"], "exclude": ["GPU-aa11"]}, {"exclude": ["0,1,2,cpu"]}, {"max_per_device": 0}],
)
def test_wishes_that_contradict_each_other_are_refused(wishes):
    with pytest.raises(ConflictError):
        wishes_of(three(), **wishes)


def test_no_more_workers_than_wished_share_a_device():
    wishes = wishes_of(three(), max_per_device=2)
    device = replace(three()[0], free_bytes=20 * GIB, holders=(person(1), person(2)))
    assert judge(replace(device, holders=(person(1),)), wishes, {1}).free
    verdict = judge(device, wishes, {1, 2})
    assert (verdict.cause, verdict.reason) == (Cause.FULL, "--max-per-device 2 is reached")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("1", ["GPU-aa22"]),
        ("GPU-bb33,0", ["GPU-aa11", "GPU-bb33"]),
        ("2,-1,0", ["GPU-bb33"]),
        ("", ["cpu"]),
        ("-1", ["cpu"]),
        ("NoDevFiles", ["cpu"]),
        ("GPU-mistyped", []),
    ],
)
def test_a_batch_systems_choice_of_devices_holds(text, left):
    wishes = wishes_of(three(), environment={"CUDA_VISIBLE_DEVICES": text})
    assert used(wishes) == left
    assert {judge(one, wishes).reason for one in three()[:3] if one.uuid not in left} <= {
        "CUDA_VISIBLE_DEVICES leaves it out"
    }


def test_numbers_in_a_batch_systems_choice_are_not_gone_by_where_cuda_counts_otherwise():
    mixed = [replace(one, name=f"GPU model {one.index}") if one.index is not None else one for one in three()]
    wishes = wishes_of(mixed, environment={"CUDA_VISIBLE_DEVICES": "1"})
    assert {judge(one, wishes).reason.split(",")[0] for one in mixed[:3]} == {"CUDA_VISIBLE_DEVICES has numbers"}
    named = wishes_of(mixed, devices=["GPU-aa22"], environment={"CUDA_VISIBLE_DEVICES": "1"})
    assert judge(mixed[1], named).free
    silent = [replace(three()[0], name="GPU", trouble="it does not answer"), *three()[1:]]
    assert used(wishes_of(silent, environment={"CUDA_VISIBLE_DEVICES": "1"})) == ["GPU-aa22"]
    by_bus = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert used(wishes_of(mixed, environment=by_bus)) == ["GPU-aa22"]
    assert used(wishes_of(mixed, environment={"CUDA_VISIBLE_DEVICES": "GPU-aa22"})) == ["GPU-aa22"]


def test_a_training_would_begin_on_the_first_free_gpu_or_else_on_the_processor():
    seen = three()
    assert first_free(seen, {}).uuid == "GPU-aa11"
    taken = [replace(seen[0], mig=True), *seen[1:]]
    assert first_free(taken, {}).uuid == "GPU-aa22"
    assert first_free(taken, {"CUDA_VISIBLE_DEVICES": "0"}).kind == "cpu"
    assert first_free(seen[-1:], {}).kind == "cpu"


def test_a_worker_is_told_its_device_by_uuid():
    assert worker_environment(gpu())["CUDA_VISIBLE_DEVICES"] == UUID
    assert worker_environment(three()[-1])["CUDA_VISIBLE_DEVICES"] == ""


def test_a_block_that_a_worker_allocates_is_looked_for_on_its_own_device(look, process):
    worker, block = process().pid, GIB
    before = look(FakeGpu("GPU-1"), FakeGpu("GPU-2"))
    there = look(FakeGpu("GPU-1", used=GIB, compute=[(worker, GIB)]), FakeGpu("GPU-2"))
    elsewhere = look(FakeGpu("GPU-1"), FakeGpu("GPU-2", used=GIB, compute=[(worker, GIB)]))
    in_a_container = look(FakeGpu("GPU-1", used=GIB), FakeGpu("GPU-2"))
    assert misplaced("GPU-1", worker, block, before, there) is None
    assert misplaced("GPU-1", worker, block, before, in_a_container) is None
    assert misplaced("GPU-1", worker, block, before, elsewhere) == "a worker for GPU-1 came up on GPU-2"
    assert "does not show it" in misplaced("GPU-1", worker, block, before, before)
    assert misplaced("GPU-1", worker, block, before, there[1:]) == "GPU-1 is gone"


# The processor


def test_the_processor_here_is_measured():
    found = measure_processor()
    assert 1 <= found.cores <= os.cpu_count()
    assert 0 < found.free_bytes <= found.total_bytes


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 1), ("max 100000", 8), ("50000 100000", 1), ("", 8)])
def test_a_container_has_its_share_of_the_cores(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert measure_processor(tmp_path / "cpu.max").cores == cores
    assert measure_processor(tmp_path / "none").cores == 8


def test_a_machine_has_a_slot_for_each_gpu_it_may_use_or_for_each_core():
    seen = three()
    gpus, processor = seen[:-1], seen[-1]
    assert slots_here(seen, {}) == len(gpus)
    assert slots_here([processor], {}) == processor.cores
    # Those that are in use now will be free again.
    busy = [replace(one, holders=(Holder(1, "compute", identity=Identity("alice")),)) for one in gpus]
    assert slots_here([*busy, processor], {}) == len(gpus)
    assert slots_here([replace(gpus[0], mig=True), *gpus[1:], processor], {}) == len(gpus) - 1
    assert slots_here([replace(gpus[0], mig=True), processor], {}) == 1
    assert slots_here(seen, {"CUDA_VISIBLE_DEVICES": gpus[0].uuid}) == 1
    assert slots_here(seen, {"CUDA_VISIBLE_DEVICES": ""}) == processor.cores


def test_devices_with_one_reason_are_told_together():
    gpus = three()[:-1]
    why = Availability(False, "it rains", Cause.FOREIGN)
    told = reasons_in_words(
        [*(DeviceStatus(gpu, why) for gpu in gpus[:2]), DeviceStatus(PROCESSOR, replace(why, reason="so"))]
    )
    assert told == f"GPUs {gpus[0].index}, {gpus[1].index}: it rains; processor: so"
    assert reasons_in_words([DeviceStatus(gpus[0], why), DeviceStatus(gpus[1], Availability(True, ""))]).startswith(
        gpus[0].label
    )
    both = [DeviceStatus(one, why) for one in (gpus[0], PROCESSOR)]
    assert reasons_in_words(both) == f"{gpus[0].label}, processor: it rains"
    assert reasons_in_words([DeviceStatus(gpus[1], why), *both]) == "GPUs 1, 0, processor: it rains"


def test_slots_of_the_processor_are_its_cores_less_what_others_load_and_as_memory_allows():
    processor = replace(three()[-1], load=0.4)
    assert cpu_slots(processor) == 4
    assert cpu_slots(replace(processor, load=2.2)) == 2
    assert cpu_slots(replace(processor, load=4.0), own_workers=4) == 4
    assert cpu_slots(replace(processor, load=50.0)) == 1
    assert cpu_slots(processor, needs_bytes=3 * GIB) == 2


def test_the_processor_is_not_used_where_its_memory_does_not_suffice():
    assert judge(three()[-1], DeviceOptions(), (), 16 * GIB).cause is Cause.MEMORY


# Locks

HOLDING = """
import sys
from pathlib import Path
from eatnas_daemon.devices.locks import hold
mine = hold(sys.argv[1], Path(sys.argv[2]))
print("held" if mine else "taken", flush=True)
sys.stdin.readline()
mine.release()
print("released", flush=True)
sys.stdin.read()
"""


def test_of_two_daemons_one_holds_a_device_and_the_other_is_told_which(tmp_path, look, process):
    first = process(sys.executable, "-c", HOLDING, UUID, str(tmp_path))
    assert first.stdout.readline() == "held\n"
    second = process(sys.executable, "-c", HOLDING, UUID, str(tmp_path))
    assert second.stdout.readline() == "taken\n"
    (device,) = look(FakeGpu(UUID))
    verdict = judge(device, DeviceOptions())
    user = psutil.Process().username()
    assert verdict.cause is Cause.LOCKED
    assert verdict.reason == f"another eatnas-db daemon holds it ({user}, pid {first.pid})"
    assert hold(UUID, tmp_path) is None
    assert hold("GPU-2", tmp_path) is not None


def test_a_device_is_free_again_once_it_is_given_back(tmp_path, process):
    first = process(sys.executable, "-c", HOLDING, UUID, str(tmp_path))
    assert first.stdout.readline() == "held\n"
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.stdout.readline() == "released\n"
    assert holder_of(UUID, tmp_path) is None
    assert hold(UUID, tmp_path) is not None


def test_a_device_is_free_again_once_its_daemon_is_killed(tmp_path, process):
    first = process(sys.executable, "-c", HOLDING, UUID, str(tmp_path))
    assert first.stdout.readline() == "held\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert holder_of(UUID, tmp_path) is None
    assert hold(UUID, tmp_path) is not None


def test_a_lock_file_can_be_locked_by_every_user(tmp_path):
    before = os.umask(0o077)
    try:
        assert hold(UUID, tmp_path) is not None
    finally:
        os.umask(before)
    assert lock_file(UUID, tmp_path).stat().st_mode & 0o777 == 0o666


def test_a_lock_file_that_was_tidied_away_is_made_anew(tmp_path):
    first = hold(UUID, tmp_path)
    lock_file(UUID, tmp_path).unlink()
    assert hold(UUID, tmp_path) is not None
    first.release()
    assert holder_of(UUID, tmp_path).pid == os.getpid()


def test_a_trap_in_place_of_a_lock_file_is_not_followed(tmp_path):
    aim = tmp_path / "aim"
    aim.write_text("kept")
    lock_file(UUID, tmp_path).symlink_to(aim)
    with pytest.raises(ConflictError, match="cannot be opened"):
        hold(UUID, tmp_path)
    assert "cannot be opened" in str(holder_of(UUID, tmp_path))
    os.mkfifo(lock_file("GPU-2", tmp_path))
    with pytest.raises(ConflictError, match="cannot be opened"):
        hold("GPU-2", tmp_path)
    assert aim.read_text() == "kept"


@pytest.mark.parametrize("content", ["", "garbage", "[1]", '{"pid": "x"}'])
def test_a_lock_file_that_says_nothing_sensible_still_holds(tmp_path, content):
    mine = hold(UUID, tmp_path)
    lock_file(UUID, tmp_path).write_text(content)
    assert str(holder_of(UUID, tmp_path)) == "owner unknown, pid unknown"
    mine.release()


# Manners


def in_use(*others, came=100.0):
    device = gpu(free_bytes=16 * GIB, holders=(person(1, "me", since=came, polite=True), *others))
    return device, judge(device, DeviceOptions(), {1})


def test_who_is_alone_stays():
    assert not should_yield(Policy.YIELD, *in_use(), {1})


@pytest.mark.parametrize("since", [50.0, 150.0])
def test_whoever_comes_to_a_device_in_use_has_it_under_the_policy_yield(since):
    assert should_yield(Policy.YIELD, *in_use(person(since=since)), {1})
    assert not should_yield(Policy.STAY, *in_use(person(since=since)), {1})


def test_of_two_polite_daemons_the_newcomer_leaves():
    assert not should_yield(Policy.YIELD, *in_use(person(since=101.0, polite=True)), {1})
    assert should_yield(Policy.YIELD, *in_use(person(since=99.0, polite=True)), {1})


def test_a_polite_newcomer_excuses_no_other():
    assert should_yield(Policy.YIELD, *in_use(person(since=101.0, polite=True), person(since=102.0)), {1})


def test_where_nobody_can_be_told_apart_memory_that_is_not_ours_makes_us_leave(look):
    (device,) = look(FakeGpu(UUID, used=12 * GIB))
    alone, shared = (judge(device, DeviceOptions(), {1}, own_bytes=size * GIB) for size in (12, 4))
    assert not should_yield(Policy.YIELD, device, alone, {1})
    assert should_yield(Policy.YIELD, device, shared, {1})


def test_waiting_doubles_up_to_a_limit_and_is_a_matter_of_chance():
    chance, count, waits = KeyedRng(1, "yield"), 0, []
    for _ in range(12):
        count, wait = backoff(count, 1.0, chance)
        longest = min(SHORTEST_WAIT * 2 ** (count - 1), LONGEST_WAIT)
        assert longest / 2 <= wait < longest
        waits.append(wait / longest)
    assert len(set(waits)) == len(waits)
    assert backoff(count, LONGEST_WAIT, chance)[0] == 1


@pytest.mark.parametrize("seed", range(50))
def test_two_daemons_that_cannot_tell_each_other_apart_do_not_evict_each_other_for_ever(seed):
    """Both see the other only by its memory, a while after it came, and both leave then."""
    sight = 5.0
    chances = [KeyedRng(seed, "yield", number) for number in (1, 2)]
    counts, begins = [0, 0], [0.0, 0.0]
    while max(begins) - min(begins) <= sight:
        assert max(counts) < 20
        left = max(begins) + sight
        for number in (0, 1):
            counts[number], wait = backoff(counts[number], left - begins[number], chances[number])
            begins[number] = left + wait


# One daemon's devices


class Clock:
    """Time that passes when a test says so."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def pool(tmp_path):
    """A daemon's pool over fake GPUs, the GPUs, and its clock."""
    pools = []

    def make(*gpus, **options):
        library, clock = FakeNvml(*gpus), Clock()
        nvml = Nvml(library)
        made = DeviceLocks(
            lambda: [device for device in probe(nvml, folder=tmp_path) if device.kind != CPU],
            DeviceOptions(),
            KeyedRng(1, "yield"),
            folder=tmp_path,
            monotonic=clock,
            **options,
        )
        pools.append(made)
        return made, library.gpus, clock

    yield make
    for made in pools:
        made.close()


def test_a_device_is_held_while_workers_are_there_and_given_back_after_the_last(pool, tmp_path, process):
    devices, _, _ = pool(FakeGpu(UUID))
    (free,) = devices.stand({})
    assert devices.take(free.device)
    worker = process().pid
    (own,) = devices.stand({UUID: [worker]})
    assert own.verdict.free
    assert holder_of(UUID, tmp_path).pid == os.getpid()
    devices.stand({})
    assert holder_of(UUID, tmp_path) is None


def test_a_device_that_another_pool_holds_is_not_taken(pool):
    first, _, _ = pool(FakeGpu(UUID))
    second, _, _ = pool(FakeGpu(UUID))
    (seen,) = second.stand({})
    assert first.take(seen.device)
    assert not second.take(seen.device)
    (told,) = second.stand({})
    assert told.verdict.cause is Cause.LOCKED


def test_when_somebody_comes_our_workers_leave_and_stay_away_for_a_while(pool, process):
    devices, (card,), clock = pool(FakeGpu(UUID))
    worker, other = process().pid, process().pid
    assert devices.take(devices.stand({})[0].device)
    card.compute = [(worker, GIB), (other, GIB)]
    (told,) = devices.stand({UUID: [worker]})
    assert told.leave
    card.compute = [(worker, GIB)]
    (told,) = devices.stand({UUID: [worker]})
    assert told.leave
    assert not told.verdict.free
    card.compute = []
    (told,) = devices.stand({})
    assert (told.leave, told.verdict.cause) == (False, Cause.WAITING)
    clock.now += SHORTEST_WAIT
    assert devices.stand({})[0].verdict.free


def test_under_the_policy_stay_our_workers_stay_and_no_more_of_them_come(pool, process):
    devices, (card,), _ = pool(FakeGpu(UUID), policy=Policy.STAY)
    worker, other = process().pid, process().pid
    assert devices.take(devices.stand({})[0].device)
    card.compute = [(worker, GIB), (other, GIB)]
    (told,) = devices.stand({UUID: [worker]})
    assert (told.leave, told.verdict.free) == (False, False)


def test_the_processor_needs_no_lock(pool, tmp_path):
    devices, _, _ = pool()
    assert devices.take(three()[-1])
    assert list(tmp_path.iterdir()) == []


def test_a_driver_that_stops_answering_holds_up_nobody_and_is_told():
    clock, asked, answer = Clock(), threading.Semaphore(0), threading.Semaphore(1)

    def look():
        asked.release()
        answer.acquire()
        return [gpu(free_bytes=GIB), three()[-1]]

    lookout = DeviceMonitor(look, every=0.0, monotonic=clock)
    try:
        assert lookout.seen()[0].trouble is None
        asked.acquire()
        asked.acquire()
        clock.now += 31
        broken, processor = lookout.seen()
        assert judge(broken, DeviceOptions()).reason == "the driver has not answered for 31 s"
        assert processor.trouble is None
    finally:
        lookout.close()
        answer.release()


def test_a_mistake_while_looking_is_raised_where_it_is_asked_for():
    def look():
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        DeviceMonitor(look).seen()


# The command, on whatever machine this is


def run_command(tmp_path, *arguments):
    command = [sys.executable, "-m", "eatnas_cli", "--home", str(tmp_path / "home"), "devices", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_devices_are_explained_without_a_record_and_the_processor_with_its_slots(tmp_path):
    done = run_command(tmp_path, "--explain", "--devices", "cpu")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^processor: free: \d+ cores, load [\d.]+, .* of memory free; slots: [1-9]", done.stdout, re.MULTILINE
    )
    assert not (tmp_path / "home").exists()


def test_devices_come_as_json_with_what_nvidias_driver_says(tmp_path):
    told = json.loads(run_command(tmp_path, "--format", "json").stdout)
    assert told["devices"][-1]["uuid"] == CPU
    assert (told["nvidia"] == "works") == (len(told["devices"]) > 1)


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    done = run_command(tmp_path, "--devices", "cpux")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "did you mean cpu?" in done.stderr
