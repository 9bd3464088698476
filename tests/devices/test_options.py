"""The options about devices, and CUDA_VISIBLE_DEVICES."""

import re
from dataclasses import replace

import pytest

from eatnas_daemon.devices.availability import check_availability
from eatnas_daemon.devices.model import CPU
from eatnas_daemon.devices.options import parse_options
from eatnas_db.errors import ConflictError, NotFoundError
from support.devices import machine


def free_devices(options):
    return [device.uuid for device in machine() if check_availability(device, options).free]


def with_visible(text, devices=None, **more):
    environment = {"CUDA_VISIBLE_DEVICES": text, **more}
    return parse_options(machine() if devices is None else devices, environment=environment)


def test_default_is_all_gpus_or_else_the_cpu():
    assert free_devices(parse_options(machine())) == ["GPU-aa11", "GPU-aa22", "GPU-bb33"]
    assert parse_options(machine()[-1:]).use_cpu


def test_cpu_is_used_if_every_gpu_is_excluded():
    assert free_devices(parse_options(machine(), exclude=["0,1,2"])) == ["cpu"]


@pytest.mark.parametrize("words", [["0,GPU-bb33"], ["0", "GPU-bb"], [" GPU-aa11 , 2"]])
def test_devices_are_named_by_index_uuid_or_prefix(words):
    assert free_devices(parse_options(machine(), devices=words)) == ["GPU-aa11", "GPU-bb33"]


def test_named_cpu_is_used_next_to_gpus():
    assert free_devices(parse_options(machine(), devices=["1,cpu"])) == ["GPU-aa22", CPU]


def test_excluded_gpu_is_not_used():
    options = parse_options(machine(), exclude=["GPU-aa22"])
    assert free_devices(options) == ["GPU-aa11", "GPU-bb33"]
    assert check_availability(machine()[1], options).reason == "excluded by --exclude"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("7", "did you mean 2?"),
        ("GPU-bb34", "did you mean GPU-bb33?"),
        ("cpus", "did you mean cpu?"),
        ("-1", "known: 0 (GPU-aa11), 1 (GPU-aa22), 2 (GPU-bb33), cpu"),
        ("GPU-aa", "matches GPU-aa11, GPU-aa22; give more of the UUID"),
    ],
)
def test_unknown_device_is_refused_with_a_suggestion(word, message):
    with pytest.raises(NotFoundError, match=re.escape(message)):
        parse_options(machine(), devices=[word])


@pytest.mark.parametrize(
    "options",
    [{"devices": ["0"], "exclude": ["GPU-aa11"]}, {"exclude": ["0,1,2,cpu"]}, {"max_per_device": 0}],
)
def test_contradictory_options_are_refused(options):
    with pytest.raises(ConflictError):
        parse_options(machine(), **options)


@pytest.mark.parametrize(
    ("text", "expected"),
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
def test_cuda_visible_devices_limits_the_gpus(text, expected):
    options = with_visible(text)
    assert free_devices(options) == expected
    others = [device for device in machine()[:3] if device.uuid not in expected]
    assert {check_availability(device, options).reason for device in others} <= {"not listed in CUDA_VISIBLE_DEVICES"}


def test_visible_mig_slices_are_reported_as_unsupported():
    mixed = [replace(machine()[0], mig_enabled=True), *machine()[1:]]
    options = with_visible("MIG-41a2", mixed)
    assert "MIG mode" in check_availability(mixed[0], options).reason
    assert "not listed" in check_availability(mixed[1], options).reason
    assert "not listed" in check_availability(mixed[0], with_visible("GPU-bb33", mixed)).reason
    assert "--exclude" in check_availability(mixed[0], parse_options(mixed, exclude=["0"])).reason


def test_ambiguous_visible_indices_are_refused():
    mixed = [replace(device, name=f"GPU model {device.index}") for device in machine()[:-1]]
    options = with_visible("1", mixed)
    reasons = {check_availability(device, options).reason.split(",")[0] for device in mixed}
    assert reasons == {"CUDA_VISIBLE_DEVICES contains indices"}
    named = parse_options(mixed, devices=["GPU-aa22"], environment={"CUDA_VISIBLE_DEVICES": "1"})
    assert check_availability(mixed[1], named).free
    assert free_devices(with_visible("1", mixed, CUDA_DEVICE_ORDER="PCI_BUS_ID")) == ["GPU-aa22"]
    assert free_devices(with_visible("GPU-aa22", mixed)) == ["GPU-aa22"]


def test_broken_gpu_does_not_make_indices_ambiguous():
    broken = [replace(machine()[0], name="GPU", error="NVML error"), *machine()[1:]]
    assert free_devices(with_visible("1", broken)) == ["GPU-aa22"]
