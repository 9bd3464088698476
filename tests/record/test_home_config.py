"""The settings of a home: disk space, hooks and workers, and errors about wrong settings."""

import pytest

from eatnas_db.errors import EatnasError
from eatnas_db.home_config import read_hooks, read_max_bytes, read_worker_settings
from eatnas_db.worker_settings import WorkerSettings


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("", None),
        ("storage:", None),
        ("storage: {max_bytes: 20_000}", 20_000),
        ("storage: {max_bytes: 20GB}", 20 * 10**9),
        ("storage: {max_bytes: 010}", 10),
        ("storage: {max_bytes: 1.5 tb}", 1_500 * 10**9),
        ("storage: {max_bytes: 20GiB}\nhooks: {on_event: 3}", 20 * 2**30),
    ],
)
def test_disk_limit_is_read_from_the_home(tmp_path, text, limit):
    assert read_max_bytes(tmp_path, {}) is None
    (tmp_path / "config.yaml").write_text(text)
    assert read_max_bytes(tmp_path, {}) == limit
    assert read_max_bytes(tmp_path, {"EATNAS_MAX_BYTES": "7MB"}) == 7 * 10**6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("storage: 3", "storage is 3"),
        ("storage: {max_bytes: many}", "max_bytes is 'many'"),
        ("storage: {max_bytes: 0}", "max_bytes is 0"),
        ("storage: {max_bytes: '1,5TB'}", "max_bytes is '1,5TB'; expected a number of bytes above 0"),
        ("[3]", "config.yaml is [3]; expected a mapping with the keys storage and hooks"),
        ("storage: {max_bytes: true}", "max_bytes is True"),
        ("storage: {most: 3}", "unknown key 'most'; known keys: max_bytes"),
        ("disk: {}", "unknown key 'disk'; known keys: storage, hooks"),
        ("[", "is not valid YAML"),
        ("storage: {max_bytes: 1GB}\nstorage: {}", "the key 'storage' is given twice, in line 1 and again in line 2"),
    ],
)
def test_invalid_configuration_is_reported_in_one_line(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(EatnasError) as raised:
        read_max_bytes(tmp_path, {})
    assert message in str(raised.value)
    assert str(tmp_path / "config.yaml") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_arguments_of_a_command_are_texts(tmp_path):
    (tmp_path / "config.yaml").write_text("hooks: {on_event: [notify, 010, true, 1.50]}")
    assert read_hooks(tmp_path).on_event == ("notify", "010", "true", "1.50")


def test_environment_precedes_the_workers_of_the_home(tmp_path):
    assert read_worker_settings(tmp_path, {}) == WorkerSettings()
    (tmp_path / "config.yaml").write_text("workers: {launcher: ray, address: 10.0.0.1:6379, gpus_per_worker: 0.5}")
    assert read_worker_settings(tmp_path, {}) == WorkerSettings("ray", "10.0.0.1:6379", None, 0.5)
    given = {
        "EATNAS_LAUNCHER": "local",
        "EATNAS_RAY_ADDRESS": "auto",
        "EATNAS_CPUS_PER_WORKER": "4",
        "EATNAS_GPUS_PER_WORKER": "",
    }
    assert read_worker_settings(tmp_path, given) == WorkerSettings("local", "auto", 4.0, 0.5)


@pytest.mark.parametrize(
    ("text", "variables", "message"),
    [
        ("{launcher: slurm}", {}, "config.yaml: workers.launcher is 'slurm'; expected local or ray"),
        ("{address: head}", {}, "workers.address is 'head'; expected HOST:PORT of the Ray head"),
        ("{address: 'ray://h:10001'}", {}, "workers.address is 'ray://h:10001' (Ray Client is not supported; join"),
        ("{cpus_per_worker: 1.5}", {}, "workers.cpus_per_worker is 1.5; expected a fraction between 0 and 1, or"),
        ("{gpus_per_worker: yes}", {}, "workers.gpus_per_worker is 'yes'; expected a number from 0 to 1"),
        ("{gpus_per_worker: true}", {}, "workers.gpus_per_worker is True; expected a number from 0 to 1"),
        ("{gpus: 1}", {}, "config.yaml: workers: unknown key 'gpus'; known keys: launcher, address, cpus_per_worker"),
        ("3", {}, "workers is 3; expected a mapping with the keys launcher, address"),
        ("{}", {"EATNAS_LAUNCHER": "k8s"}, "EATNAS_LAUNCHER is 'k8s'; expected local or ray"),
        ("{}", {"EATNAS_RAY_ADDRESS": "h:0"}, "EATNAS_RAY_ADDRESS is 'h:0'; expected HOST:PORT of the Ray head"),
        ("{}", {"EATNAS_GPUS_PER_WORKER": "nan"}, "EATNAS_GPUS_PER_WORKER is 'nan'; expected a number from 0 to 1"),
        ("{}", {"EATNAS_CPUS_PER_WORKER": "inf"}, "EATNAS_CPUS_PER_WORKER is 'inf'; expected a fraction"),
        ("{}", {"EATNAS_CPUS_PER_WORKER": "many"}, "EATNAS_CPUS_PER_WORKER is 'many'; expected a fraction"),
    ],
)
def test_wrong_settings_of_workers_are_reported_in_one_line(tmp_path, text, variables, message):
    (tmp_path / "config.yaml").write_text(f"workers: {text}")
    with pytest.raises(EatnasError) as raised:
        read_worker_settings(tmp_path, variables)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
