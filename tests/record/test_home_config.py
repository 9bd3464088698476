"""The limit of the disk space in a home's configuration, and the errors of a wrong one."""

import pytest

from eatnas_db.errors import EatnasError
from eatnas_db.home_config import read_hooks, read_max_bytes


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
