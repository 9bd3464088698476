"""The availability of devices. The GPUs are fakes of NVML; the processes are real."""

from dataclasses import replace

import psutil
import pynvml
import pytest

from eatnas_daemon.devices.availability import Availability, Cause, check_availability
from eatnas_daemon.devices.capacity import count_cpu_slots, count_slots, find_free_device
from eatnas_daemon.devices.model import CPU_DEVICE, GpuProcess, ProcessIdentity
from eatnas_daemon.devices.options import DeviceOptions, parse_options
from eatnas_daemon.devices.placement import PlacementError, find_placement_error, worker_environment
from eatnas_daemon.devices.sharing import DeviceStatus, describe_unavailable
from support.devices import NO_SUCH_PID, UUID, gpu, gpu_process, machine
from support.fake_nvml import GIB, GPU_NAME, FakeGpu

ANY = DeviceOptions()


def cause(device, *arguments, **options):
    return check_availability(device, ANY, *arguments, **options).cause


def reason(device, *arguments, **options):
    return check_availability(device, ANY, *arguments, **options).reason


def test_idle_gpu_is_free(probe_gpus):
    (device,) = probe_gpus(FakeGpu(UUID, used=GIB // 2))
    availability = check_availability(device, ANY, (), 8 * GIB)
    assert availability.free
    assert availability.reason == "23.5 GiB of 24.0 GiB of memory free, 0% busy"
    assert device.name == GPU_NAME


def test_process_of_another_user_is_named(probe_gpus, start_process):
    other = start_process()
    (device,) = probe_gpus(FakeGpu(UUID, used=4 * GIB, compute=[(other.pid, 4 * GIB)]))
    availability = check_availability(device, ANY)
    process = psutil.Process(other.pid)
    assert not availability.free
    assert availability.cause is Cause.IN_USE
    assert availability.reason == f"in use by {process.name()} (pid {other.pid}, {process.username()})"


def test_several_processes_are_counted(probe_gpus, start_process):
    (device,) = probe_gpus(FakeGpu(UUID, compute=[(start_process().pid, 1) for _ in range(3)]))
    assert reason(device).startswith("in use by ")
    assert reason(device).endswith(" and 2 more")


def test_own_workers_leave_a_gpu_available(probe_gpus, start_process):
    worker = start_process()
    (device,) = probe_gpus(FakeGpu(UUID, used=4 * GIB, utilisation=99, compute=[(worker.pid, 4 * GIB)]))
    assert check_availability(device, ANY, {worker.pid}, GIB).free


def test_graphics_process_leaves_a_gpu_available(probe_gpus, start_process):
    (device,) = probe_gpus(FakeGpu(UUID, used=GIB, utilisation=5, graphics=[(start_process().pid, GIB)]))
    assert check_availability(device, ANY, (), GIB).free


def test_process_with_graphics_and_compute_counts_as_computing(probe_gpus, start_process):
    both = start_process().pid
    (device,) = probe_gpus(FakeGpu(UUID, compute=[(both, GIB)], graphics=[(both, GIB)]))
    assert cause(device) is Cause.IN_USE


@pytest.mark.parametrize("attribute", ["name", "username"])
def test_allowed_program_or_user_leaves_a_gpu_available(probe_gpus, start_process, attribute):
    other = start_process()
    allowed = getattr(psutil.Process(other.pid), attribute)()
    (device,) = probe_gpus(FakeGpu(UUID, used=2 * GIB, utilisation=90, compute=[(other.pid, 2 * GIB)]))
    assert check_availability(device, DeviceOptions(allowed=frozenset({allowed})), (), GIB).free


def test_missing_memory_is_reported_with_both_sizes(probe_gpus):
    (device,) = probe_gpus(FakeGpu(UUID, total=8 * GIB, used=GIB // 2))
    availability = check_availability(device, ANY, (), 12 * GIB)
    assert availability.cause is Cause.LOW_MEMORY
    assert availability.reason == "a candidate needs 12.0 GiB of memory, but only 7.5 GiB are free"


def test_cpu_without_enough_memory_is_unavailable():
    assert cause(machine()[-1], (), 16 * GIB) is Cause.LOW_MEMORY


def test_busy_gpu_without_a_process_is_unavailable(probe_gpus):
    (device,) = probe_gpus(FakeGpu(UUID, utilisation=87))
    availability = check_availability(device, ANY)
    assert availability.cause is Cause.BUSY
    assert "87% busy" in availability.reason


def test_memory_decides_if_pids_are_of_the_host(probe_gpus):
    in_use = FakeGpu(UUID, used=9 * GIB, compute=[(NO_SUCH_PID, 9 * GIB)])
    idle = FakeGpu("GPU-2", used=GIB // 2, compute=[(NO_SUCH_PID, None)])
    first, second = probe_gpus(in_use, idle)
    assert cause(first) is Cause.IN_USE
    assert reason(first).startswith("9.0 GiB of memory are in use (the driver reports process ids from outside")
    assert check_availability(second, ANY).free
    assert reason(second).endswith("so only the memory in use shows whether another process uses it")


def test_memory_that_workers_report_counts_if_processes_are_hidden(probe_gpus):
    (device,) = probe_gpus(FakeGpu(UUID, used=6 * GIB, utilisation=95))
    assert cause(device) is Cause.IN_USE
    assert check_availability(device, ANY, {7}, GIB, worker_bytes=5 * GIB).free
    availability = check_availability(device, ANY, {7}, GIB, worker_bytes=GIB)
    assert availability.cause is Cause.IN_USE
    assert "6.0 GiB of memory are in use, more than the workers of this daemon use" in availability.reason


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND])
def test_driver_without_process_list_is_not_broken(probe_gpus, error):
    (device,) = probe_gpus(FakeGpu(UUID, errors={"nvmlDeviceGetComputeRunningProcesses": error}))
    availability = check_availability(device, ANY)
    assert availability.free
    assert "does not report the processes" in availability.reason


def test_unsupported_values_are_left_out(probe_gpus):
    names = ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMigMode", "nvmlDeviceGetTotalEccErrors")
    (device,) = probe_gpus(FakeGpu(UUID, errors=dict.fromkeys(names, pynvml.NVML_ERROR_NOT_SUPPORTED)))
    assert reason(device) == "24.0 GiB of 24.0 GiB of memory free"


def test_memory_errors_are_reported(probe_gpus):
    (device,) = probe_gpus(FakeGpu(UUID, memory_errors=3))
    assert "3 memory errors" in reason(device)


def test_gpu_in_mig_mode_is_unsupported(probe_gpus):
    (device,) = probe_gpus(FakeGpu(UUID, mig=True))
    assert cause(device) is Cause.UNSUPPORTED
    assert f"disable it with `nvidia-smi -i {UUID} -mig 0`" in reason(device)


def test_gpu_with_compute_prohibited_is_unsupported(probe_gpus):
    (device,) = probe_gpus(FakeGpu(UUID, prohibited=True))
    assert cause(device) is Cause.UNSUPPORTED
    assert reason(device).startswith("compute mode is prohibited")


def test_gpu_in_exclusive_mode_takes_one_worker(probe_gpus):
    (device,) = probe_gpus(FakeGpu(UUID, exclusive=True))
    assert check_availability(device, ANY).free
    availability = check_availability(device, ANY, {7}, worker_bytes=GIB)
    assert availability.cause is Cause.FULL
    assert availability.reason == "compute mode is exclusive, so only one worker at a time can use the device"


def test_gpu_without_own_memory_uses_that_of_the_machine(probe_gpus):
    (device,) = probe_gpus(FakeGpu(UUID, errors={"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NOT_SUPPORTED}))
    assert 0 < device.free_bytes < psutil.virtual_memory().total
    assert check_availability(device, ANY).free


def test_gpu_with_unreadable_memory_is_broken_unless_in_mig_mode(probe_gpus):
    errors = {"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NO_PERMISSION}
    (device,) = probe_gpus(FakeGpu(UUID, errors=errors))
    assert cause(device) is Cause.ERROR
    (sliced,) = probe_gpus(FakeGpu(UUID, mig=True, errors=errors))
    assert cause(sliced) is Cause.UNSUPPORTED


def test_mps_server_is_ignored_and_memory_decides():
    server = gpu_process(owner="root", name="nvidia-cuda-mps-server")
    assert check_availability(gpu(processes=(server,)), ANY).free
    in_use = gpu(processes=(server,), free_bytes=15 * GIB)
    assert reason(in_use).startswith("9.0 GiB of memory are in use (NVIDIA MPS hides")
    assert check_availability(in_use, ANY, (1,), worker_bytes=9 * GIB).free
    both = gpu(processes=(server, gpu_process()))
    assert check_availability(both, ANY).other_processes == (gpu_process(),)


def test_unseen_processes_can_be_allowed():
    desktop = gpu(processes_unknown=True, free_bytes=21 * GIB, utilisation_percent=60)
    assert not check_availability(desktop, ANY).free
    assert "`--allow unseen`" in reason(desktop)
    allowed = parse_options([desktop], allowed=["unseen"])
    assert check_availability(desktop, allowed).free
    assert not check_availability(desktop, allowed, needed_bytes=22 * GIB).free


def test_max_per_device_limits_the_workers():
    options = parse_options(machine(), max_per_device=2)
    device = replace(machine()[0], free_bytes=20 * GIB, processes=(gpu_process(1), gpu_process(2)))
    assert check_availability(replace(device, processes=(gpu_process(1),)), options, {1}).free
    availability = check_availability(device, options, {1, 2})
    assert (availability.cause, availability.reason) == (Cause.FULL, "--max-per-device 2 is reached")


def test_eight_gpus_are_checked_independently(probe_gpus, start_process):
    gpus = [FakeGpu(f"GPU-{number}") for number in range(8)]
    gpus[1].compute = [(start_process().pid, GIB)]
    gpus[3].mig = True
    gpus[4].utilisation = 100
    gpus[6].errors["nvmlDeviceGetHandleByIndex"] = pynvml.NVML_ERROR_GPU_IS_LOST
    devices = probe_gpus(*gpus)
    options = parse_options(devices, exclude=["7"])
    results = [check_availability(device, options) for device in devices]
    assert [device.index for device in devices] == list(range(8))
    assert [index for index, result in enumerate(results) if result.free] == [0, 2, 5]
    assert len({result.cause for result in results}) == 6


def test_training_starts_on_the_first_free_device():
    devices = machine()
    assert find_free_device(devices, {}).uuid == "GPU-aa11"
    sliced = [replace(devices[0], mig_enabled=True), *devices[1:]]
    assert find_free_device(sliced, {}).uuid == "GPU-aa22"
    assert find_free_device(sliced, {"CUDA_VISIBLE_DEVICES": "0"}).kind == "cpu"
    assert find_free_device(devices[-1:], {}).kind == "cpu"


def test_machine_has_a_slot_per_usable_gpu_or_per_core():
    devices = machine()
    gpus, cpu = devices[:-1], devices[-1]
    assert count_slots(devices, {}) == len(gpus)
    assert count_slots([cpu], {}) == cpu.cores
    # A GPU in use counts, because it becomes free again.
    busy = [replace(one, processes=(GpuProcess(1, "compute", identity=ProcessIdentity("alice")),)) for one in gpus]
    assert count_slots([*busy, cpu], {}) == len(gpus)
    assert count_slots([replace(gpus[0], mig_enabled=True), *gpus[1:], cpu], {}) == len(gpus) - 1
    assert count_slots([replace(gpus[0], mig_enabled=True), cpu], {}) == 1
    assert count_slots(devices, {"CUDA_VISIBLE_DEVICES": gpus[0].uuid}) == 1
    assert count_slots(devices, {"CUDA_VISIBLE_DEVICES": ""}) == cpu.cores


def test_load_and_memory_limit_the_slots_of_the_cpu():
    cpu = replace(machine()[-1], load_average=0.4)
    assert count_cpu_slots(cpu) == 4
    assert count_cpu_slots(replace(cpu, load_average=2.2)) == 2
    assert count_cpu_slots(replace(cpu, load_average=4.0), workers=4) == 4
    assert count_cpu_slots(replace(cpu, load_average=50.0)) == 1
    assert count_cpu_slots(cpu, needed_bytes=3 * GIB) == 2


def test_devices_with_the_same_reason_are_grouped():
    gpus = machine()[:-1]
    rain = Availability(False, "it rains", Cause.IN_USE)
    snow = replace(rain, reason="it snows")
    both = [DeviceStatus(device, rain) for device in gpus[:2]]
    assert describe_unavailable([*both, DeviceStatus(CPU_DEVICE, snow)]) == "GPUs 0, 1: it rains; CPU: it snows"
    free = DeviceStatus(gpus[1], Availability(True, ""))
    assert describe_unavailable([both[0], free]) == f"{gpus[0].label}: it rains"
    with_cpu = [both[0], DeviceStatus(CPU_DEVICE, rain)]
    assert describe_unavailable(with_cpu) == f"{gpus[0].label}, CPU: it rains"
    assert describe_unavailable([both[1], *with_cpu]) == "GPUs 1, 0, CPU: it rains"


def test_worker_sees_only_its_own_device():
    assert worker_environment(gpu())["CUDA_VISIBLE_DEVICES"] == UUID
    assert worker_environment(machine()[-1])["CUDA_VISIBLE_DEVICES"] == ""


def test_worker_must_be_visible_on_its_device(probe_gpus, start_process):
    worker = start_process().pid
    before = probe_gpus(FakeGpu("GPU-1"), FakeGpu("GPU-2"))
    listed = probe_gpus(FakeGpu("GPU-1", used=GIB, compute=[(worker, GIB)]), FakeGpu("GPU-2"))
    elsewhere = probe_gpus(FakeGpu("GPU-1"), FakeGpu("GPU-2", used=GIB, compute=[(worker, GIB)]))
    in_container = probe_gpus(FakeGpu("GPU-1", used=GIB), FakeGpu("GPU-2"))
    assert find_placement_error("GPU-1", worker, GIB, before, listed) is None
    assert find_placement_error("GPU-1", worker, GIB, before, in_container) is None
    assert find_placement_error("GPU-1", worker, GIB, before, elsewhere) == PlacementError(
        "a worker for GPU-1 started on GPU-2", is_certain=True
    )
    assert "does not show it" in find_placement_error("GPU-1", worker, GIB, before, before).message
    assert find_placement_error("GPU-1", worker, GIB, before, listed[1:]).message == "GPU-1 has disappeared"
