"""Commands work in folders whose names contain characters with a special meaning in a URL, in a shell or in SQLite."""

import json
import shutil

import pytest

HOSTILE = "what?mode=ro #1 100%20é ~"


@pytest.fixture
def hostile_home(tmp_path):
    (tmp_path / HOSTILE).mkdir()
    return tmp_path / HOSTILE / "home"


def test_commands_find_a_home_with_a_hostile_name(eatnas_within, hostile_home, tmp_path, spec):
    file = hostile_home.parent / "s#1?%41.yaml"
    shutil.move(spec(), file)
    eatnas_within("init", at=hostile_home)
    eatnas_within("search", "create", str(file), at=hostile_home)
    backup = hostile_home.parent / "b?%20#.db"
    eatnas_within("db", "backup", str(backup), at=hostile_home)
    assert "restored" in eatnas_within("db", "restore", str(backup), at=hostile_home)
    assert "the record is intact" in eatnas_within("db", "check", at=hostile_home)
    assert json.loads(eatnas_within("search", "list", "--format", "json", at=hostile_home))[0]["name"] == "tiny"
    assert [path.name for path in tmp_path.iterdir()] == [HOSTILE]
    assert {path.name for path in hostile_home.parent.iterdir()} == {"home", file.name, backup.name}


def test_a_tilde_is_expanded_in_every_path(eatnas_within, record, home, tmp_path, monkeypatch, spec):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.move(spec(), tmp_path / "spec.yaml")
    eatnas_within("search", "create", "~/spec.yaml", at="~/home")
    eatnas_within("db", "backup", "~/b.db", at="~/home")
    monkeypatch.setenv("EATNAS_DB_URL", "sqlite:///~/b.db")
    assert "tiny" in eatnas_within("search", "list", at="~/other")
    assert {path.name for path in tmp_path.iterdir()} == {"home", "spec.yaml", "b.db"}
