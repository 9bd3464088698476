"""The installed command, as a user types it."""

import json
import subprocess
import sys

import pytest

SPEC = """
name: tiny
space: eatnas-tiny
data: {name: digits, train_images: 64, validation_images: 64}
training: {epochs: 1, batch_size: 32}
evolution: {population: 2, tournament: 2, lag: 2}
budget: {candidates: 4}
"""


@pytest.fixture
def eatnas(tmp_path):
    def call(*arguments, expect=0):
        command = [sys.executable, "-m", "eatnas_cli", "--home", str(tmp_path / "home"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == expect, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if expect else done.stdout

    return call


@pytest.fixture
def spec(tmp_path):
    def write(text=SPEC):
        file = tmp_path / "spec.yaml"
        file.write_text(text)
        return str(file)

    return write


def test_a_home_is_made_once_and_kept(eatnas):
    assert "no record at" in eatnas("search", "list", expect=1)
    eatnas("init")
    eatnas("init")
    assert "agree" in eatnas("db", "check")
    assert eatnas("search", "list") == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "is not YAML"),
        ("just words", "a spec is a mapping"),
        (SPEC.replace("digits", "digitz"), "digits"),
        (SPEC.replace("epochs: 1", "epoch: 1"), "did you mean epochs?"),
        (SPEC + "objective: {max_params: 10}", "the smallest network"),
        (SPEC.replace("train_images: 64", "train_images: 100000"), "100"),
    ],
)
def test_a_bad_spec_is_one_clear_error_and_changes_nothing(eatnas, spec, text, words):
    eatnas("init")
    assert words in eatnas("search", "create", spec(text), expect=1)
    assert words in eatnas("search", "estimate", spec(text), expect=1)
    assert eatnas("search", "list") == ""


def test_a_taken_name_and_an_unknown_one_are_told(eatnas, spec):
    eatnas("init")
    eatnas("search", "create", spec())
    assert "choose another name" in eatnas("search", "create", spec(), expect=1)
    assert "there are: tiny" in eatnas("query", "best", "tinny", expect=1)


def test_pause_resume_cancel_are_wishes_and_cancel_is_final(eatnas, spec):
    eatnas("init")
    eatnas("search", "create", spec())
    eatnas("search", "pause", "tiny")
    assert "paused" in eatnas("search", "list")
    eatnas("search", "resume", "tiny")
    assert "running" in eatnas("search", "list")
    eatnas("search", "cancel", "tiny")
    assert "final" in eatnas("search", "resume", "tiny", expect=1)


@pytest.mark.slow
def test_a_search_on_real_images_gives_one_history_on_one_and_two_slots(eatnas, spec):
    eatnas("init")
    prints = set()
    for name, slots in (("one", "1"), ("two", "2")):
        eatnas("search", "create", spec(), "--set", f"name={name}")
        eatnas("run", name, "--slots", slots)
        prints.add(eatnas("query", "fingerprint", name))
        assert len(json.loads(eatnas("query", "best", name, "--format", "json"))) == 4
    assert len(prints) == 1


@pytest.mark.slow
def test_the_daemon_starts_refuses_a_twin_and_stops(eatnas):
    eatnas("init")
    assert "daemon started" in eatnas("daemon", "start", "--slots", "1")
    try:
        assert "works on this record already" in eatnas("daemon", "start", expect=1)
        assert "running" in eatnas("daemon", "status")
    finally:
        assert "daemon stopped" in eatnas("daemon", "stop")
