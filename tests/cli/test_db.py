"""The commands for backups, integrity checks and disk usage."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from eatnas_daemon.daemon_lock import hold_daemon_lock


@pytest.fixture
def eatnas(eatnas_within):
    return eatnas_within


@pytest.fixture
def broken(record, eatnas, spec, home):
    """Return a record in which rows were deleted manually."""
    eatnas("search", "create", spec())
    with closing(sqlite3.connect(home / "eatnas.db")) as connection:
        connection.execute("DELETE FROM eatnas_candidate WHERE birth = 0")
        connection.commit()


@pytest.fixture
def answer(home, tmp_path):
    """Return the output of a command that exits with status 1."""

    def call(*arguments, **more):
        command = [sys.executable, "-m", "eatnas_cli", "--home", str(home), *arguments]
        environment = {**os.environ, **more}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert (done.returncode, done.stderr) == (1, "")
        return done.stdout

    return call


@pytest.mark.slow
def test_restore_keeps_the_replaced_record(record, eatnas, spec, home):
    eatnas("search", "create", spec())
    assert "schema version" in eatnas("db", "backup", "safe.db")
    eatnas("search", "create", spec(), "--set", "name=later")
    output = eatnas("db", "restore", "safe.db")
    (kept,) = home.glob("eatnas.db.before-restore-*")
    assert str(kept) in output
    assert [row["name"] for row in json.loads(eatnas("search", "list", "--format", "json"))] == ["tiny"]
    eatnas("--db", f"sqlite:///{kept}", "search", "show", "later")
    assert "intact" in eatnas("db", "check")
    assert "restored" in eatnas("query", "events")


def test_home_is_restored_from_a_backup_alone(record, eatnas, spec, tmp_path):
    eatnas("search", "create", spec())
    eatnas("db", "backup", "safe.db")
    elsewhere = tmp_path / "elsewhere"
    assert "kept" not in eatnas("db", "restore", "safe.db", at=elsewhere)
    assert "tiny" in eatnas("search", "list", at=elsewhere)


def test_existing_file_is_replaced_only_with_force(record, eatnas, tmp_path):
    (tmp_path / "safe.db").write_text("precious")
    assert "--force" in eatnas("db", "backup", "safe.db", expect=1)
    assert (tmp_path / "safe.db").read_text() == "precious"
    eatnas("db", "backup", "safe.db", "--force")
    eatnas("db", "restore", "safe.db")


def test_restore_is_refused_while_a_daemon_runs(record, eatnas, home):
    with hold_daemon_lock(home / "eatnas.db.lock"):
        eatnas("db", "backup", "safe.db")
        assert f"a daemon (pid {os.getpid()})" in eatnas("db", "restore", "safe.db", expect=1)
    eatnas("db", "restore", "safe.db")


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\0" + b"x" * 2000])
def test_restore_refuses_other_files_and_changes_nothing(record, eatnas, tmp_path, home, content):
    if content is not None:
        (tmp_path / "safe.db").write_bytes(content)
    assert len(eatnas("db", "restore", "safe.db", expect=1).splitlines()) == 1
    assert not list(home.glob("*before-restore*"))
    assert "intact" in eatnas("db", "check")


@pytest.mark.slow
def test_check_prints_an_example_of_each_violation(broken, answer):
    lines = answer("db", "check").splitlines()
    assert "violated: births are numbered without gaps from 0 (searches: tiny)" in lines
    assert not any("intact" in line for line in lines)


@pytest.mark.slow
def test_violations_are_printed_as_json(broken, answer):
    found = {one["invariant"]: one for one in json.loads(answer("db", "check", "--files", "--format", "json"))}
    assert found["births are numbered without gaps from 0"]["examples"] == ["tiny"]
    assert answer("db", "check", "--format", "csv").startswith("invariant,what,count,examples\n")


def test_valid_record_is_an_empty_list_in_json(record, eatnas):
    assert json.loads(eatnas("db", "check", "--format", "json")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bound", "output"),
    [
        ("100kB", "the limit is 100.0 kB; the files that the daemon must keep exceed the limit by"),
        ("lots", "EATNAS_MAX_BYTES is 'lots'"),
    ],
)
def test_doctor_reports_an_impossible_or_invalid_limit(record, answer, bound, output):
    rows = json.loads(answer("doctor", "--format", "json", EATNAS_MAX_BYTES=bound))
    (storage,) = [row for row in rows if row["what"] == "storage"]
    assert not storage["ok"]
    assert output in storage["found"]


def test_limit_of_the_home_is_one_line_of_configuration(record, eatnas, home):
    (home / "config.yaml").write_text("storage:\n  max_bytes: 20GB\n")
    output = {row["what"]: row["found"] for row in json.loads(eatnas("doctor", "--format", "json"))}
    assert output["storage"].endswith("the limit is 20.0 GB")


@pytest.mark.slow
def test_exported_record_is_imported_into_a_new_home(tiny, eatnas_within, home, tmp_path):
    exported = json.loads(eatnas_within("db", "export", "out", "--format", "json"))
    other = tmp_path / "other"

    assert json.loads(eatnas_within("db", "import", "out", "--format", "json", at=other)) == exported

    fingerprints = [eatnas_within("query", "fingerprint", "tiny", at=home) for home in (home, other)]
    assert fingerprints[0] == fingerprints[1]
    assert "not empty" in eatnas_within("db", "import", "out", at=other, expect=1)
    assert "is not an exported record" in eatnas_within("db", "import", ".", at=tmp_path / "third", expect=1)
    assert "absent.csv does not exist" in eatnas_within("db", "import", "absent.csv", at=tmp_path / "third", expect=1)
    assert not (tmp_path / "third").exists()


def test_scores_are_imported_from_a_file(record, eatnas, tmp_path):
    code = json.loads(eatnas("space", "sample", "--space", "eatnas-tiny", "--format", "json"))["code"]
    file = tmp_path / "prior.csv"
    file.write_text(f"code,score,note\n{code},0.5,first\n")
    assert "add --space" in eatnas("db", "import", str(file), expect=1)
    assert "is a folder" in eatnas("db", "import", str(tmp_path), "--space", "eatnas-tiny", expect=1)
    assert "did you mean eatnas-tiny" in eatnas("db", "import", str(file), "--space", "eatnas-tin", expect=1)
    answer = json.loads(eatnas("db", "import", str(file), "--space", "eatnas-tiny", "--format", "json"))
    assert answer == {"search": "prior", "candidates": 1}
    assert json.loads(eatnas("query", "best", "prior", "--format", "json"))[0]["code"] == code
    assert "its scores were imported" in eatnas("search", "final", "prior", expect=1)
    assert "its score was imported" in eatnas("export", "prior", "-o", str(tmp_path / "best"), expect=1)
