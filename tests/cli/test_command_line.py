"""The installed command, as a user types it."""

import json

import pytest


def test_a_home_is_made_once_and_kept(eatnas):
    assert "no record at" in eatnas("search", "list", expect=1)
    eatnas("init")
    eatnas("init")
    assert "intact" in eatnas("db", "check")
    assert "no searches yet" in eatnas("search", "list")


@pytest.mark.slow
def test_pause_resume_cancel_are_wishes_and_cancel_is_final(eatnas, spec):
    eatnas("init")
    eatnas("search", "create", spec())
    eatnas("search", "pause", "tiny")
    assert "paused" in eatnas("search", "list")
    eatnas("search", "resume", "tiny")
    assert "waiting: no daemon" in eatnas("search", "list")
    eatnas("search", "cancel", "tiny")
    assert "cannot be undone" in eatnas("search", "resume", "tiny", expect=1)


@pytest.mark.slow
def test_real_search_has_one_history_on_any_slots(eatnas, spec):
    eatnas("init")
    prints = set()
    for name, slots in (("one", "1"), ("two", "2")):
        eatnas("search", "create", spec(), "--set", f"name={name}")
        eatnas("run", name, "--slots", slots)
        prints.add(eatnas("query", "fingerprint", name))
        assert len(json.loads(eatnas("query", "best", name, "--format", "json"))) == 4
    assert len(prints) == 1
