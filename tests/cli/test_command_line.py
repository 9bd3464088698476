"""The installed command is run as a user types it."""

import json
import shutil

import pytest


def test_home_is_created_once_and_kept(eatnas, eatnas_within):
    assert "no record at" in eatnas_within("search", "list", expect=1)
    eatnas("init")
    eatnas_within("init")
    assert "intact" in eatnas_within("db", "check")
    assert "no searches yet" in eatnas("search", "list")


@pytest.mark.slow
def test_pause_can_be_resumed_and_cancel_is_final(eatnas, spec):
    eatnas("init")
    eatnas("search", "create", spec())
    eatnas("search", "pause", "tiny")
    assert "paused" in eatnas("search", "list")
    eatnas("search", "resume", "tiny")
    assert "waiting: no daemon" in eatnas("search", "list")
    eatnas("search", "cancel", "tiny")
    assert "cannot be undone" in eatnas("search", "resume", "tiny", expect=1)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny", "without_mlflow")
def test_real_search_has_one_history_on_any_slots(eatnas, eatnas_within, home, tmp_path):
    prints = set()
    for slots, at in (("1", home), ("2", shutil.copytree(home, tmp_path / "other"))):
        eatnas("run", "tiny", "--slots", slots, at=at)
        prints.add(eatnas_within("query", "fingerprint", "tiny", at=at))
        assert len(json.loads(eatnas_within("query", "best", "tiny", "--format", "json", at=at))) == 4
    assert len(prints) == 1


@pytest.mark.slow
def test_search_is_deleted_with_its_files_after_a_confirmation(large, eatnas, home):
    folder = home / "artifacts" / "checkpoints" / "3"
    folder.mkdir(parents=True)
    (folder / "c22-a1-e0-b0.ckpt").touch()
    log, other = home / "logs" / "candidate-22.log", home / "logs" / "candidate-1.log"
    log.touch()
    other.touch()
    assert "it is the source of small.reevaluation, large; delete" in eatnas(
        "search", "delete", "small", "--yes", expect=1
    )
    message = eatnas("search", "delete", "large", expect=1)
    assert "this would delete search large (10 candidates) with all its checkpoints and logs" in message
    assert "add --yes" in message
    assert "search large is deleted, with 10 candidates" in eatnas("search", "delete", "large", "--yes")
    assert not folder.exists()
    assert not log.exists()
    assert other.exists()
    assert "large" not in eatnas("search", "list")
    assert "no search" in eatnas("search", "delete", "large", "--yes", expect=1)
