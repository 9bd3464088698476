"""The user's command is told what became of a search: once, in time, and to nobody's harm."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from eatnas_daemon.hooks import Notifier, Place
from eatnas_db import events
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.states import DesiredState
from eatnas_db.errors import EatnasError
from eatnas_db.home_config import HOOK_EVENTS, HooksConfig, read_hooks
from eatnas_db.searches.control import set_desired_state, set_waiting_reason

TELL = """
import json, os, sys
facts = json.load(sys.stdin)
names = ("EATNAS_EVENT", "EATNAS_SEARCH", "EATNAS_COUNT", "EATNAS_CANDIDATE", "EATNAS_WORDS", "EATNAS_HOME")
with open("told.jsonl", "a") as file:
    print(json.dumps([facts, {name: os.environ.get(name) for name in names}]), file=file)
print("told of", facts["event"])
"""


class Now:
    """Time that passes when the test says so."""

    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def settings(tmp_path, home):
    settings = home(tmp_path / "home")
    settings.logs.mkdir()
    return settings


@pytest.fixture
def engine(settings):
    engine = open_record(settings.database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def log(tmp_path):
    log = logging.getLogger("test hooks")
    log.propagate = False
    log.handlers = [logging.FileHandler(tmp_path / "daemon.log")]
    yield log
    log.handlers[0].close()


@pytest.fixture
def notifier(settings, engine, log):
    def make(*command, events=HOOK_EVENTS, **more):
        return Notifier(
            engine,
            settings,
            HooksConfig(on_event=command or (sys.executable, "-c", TELL), events=events),
            log,
            1.0,
            **more,
        )

    return make


def told(settings):
    file = settings.home / "told.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def happen(engine, kind, now=100.0, candidate=None, **detail):
    with transaction(engine) as connection:
        events.record_event(connection, now, kind, search_id=1, candidate_id=candidate, detail=detail or None)


def wish(engine, wish):
    with transaction(engine) as connection:
        set_desired_state(connection, "s", wish, 100.0)


def wait_for(engine, why):
    with transaction(engine) as connection:
        set_waiting_reason(connection, why)


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def test_the_command_hears_what_happened_on_stdin_and_by_its_environment(settings, engine, notifier):
    hook = notifier(quiet=0.0)
    hook.look()
    assert told(settings) == []  # created before: no news
    wish(engine, DesiredState.PAUSED)
    hook.look()
    wish(engine, DesiredState.RUN)
    happen(engine, "failed", candidate=1, failure="diverged", message="nan")
    wait_for(engine, "workers cannot be started: no fork")
    hook.look()
    happen(engine, "finished", why="done")
    hook.look()
    hook.look()
    facts = [one for one, _ in told(settings)]
    assert sorted(one["event"] for one in facts[1:3]) == ["failed", "waiting"]
    assert [facts[0]["event"], facts[3]["event"]] == ["paused", "finished"]
    by_event = {one["event"]: one for one in facts}
    assert by_event["waiting"]["words"] == "the search waits: workers cannot be started: no fork"
    assert by_event["failed"]["words"].endswith(": diverged, nan")
    assert (by_event["failed"]["candidate"], by_event["failed"]["count"]) == (1, 1)
    assert (by_event["finished"]["detail"], by_event["finished"]["budget"]) == ({"why": "done"}, 24)
    assert by_event["paused"]["status"] == "paused"
    assert {one["search"] for one in facts} == {"s"}
    environments = {environment["EATNAS_EVENT"]: environment for _, environment in told(settings)}
    assert environments["failed"]["EATNAS_CANDIDATE"] == "1"
    assert environments["finished"]["EATNAS_SEARCH"] == "s"
    assert "told of finished" in (settings.logs / "hooks.log").read_text()


def test_only_the_events_that_are_wanted_are_told(settings, engine, notifier):
    hook = notifier(events=("finished",))
    wish(engine, DesiredState.PAUSED)
    wait_for(engine, "something")
    happen(engine, "failed", candidate=1, failure="diverged")
    happen(engine, "finished", why="done")
    hook.look()
    assert [one["event"] for one, _ in told(settings)] == ["finished"]


def test_a_storm_of_failures_is_one_call_and_then_another_when_it_was_quiet(settings, engine, notifier):
    now = Now()
    hook = notifier(quiet=600.0, monotonic=now)
    for candidate in range(1, 5):
        happen(engine, "failed", candidate=candidate, failure="diverged")
        hook.look()
    assert [one["candidates"] for one, _ in told(settings)] == [[1]]
    now.seconds = 601.0
    hook.look()
    assert [one["candidates"] for one, _ in told(settings)] == [[1], [2, 3, 4]]
    assert [one["count"] for one, _ in told(settings)] == [1, 3]
    happen(engine, "failed", candidate=5, failure="diverged")
    hook.look()
    hook.look(last=True)
    assert [one["candidates"] for one, _ in told(settings)][2:] == [[5]]


def test_the_next_daemon_goes_on_where_the_last_one_was(settings, engine, notifier):
    now = Now()
    hook = notifier(monotonic=now)
    for candidate in (1, 2):
        happen(engine, "failed", candidate=candidate, failure="diverged")
        hook.look()
    wait_for(engine, "something")
    hook.look()
    # As after a kill: candidate 2 was held back, and an event came while nobody looked.
    happen(engine, "finished", why="done")
    again = notifier(monotonic=now)
    again.look()
    again.look()
    facts = [one for one, _ in told(settings)]
    assert [one["event"] for one in facts[:2]] == ["failed", "waiting"]
    assert sorted((one["event"], str(one["candidates"])) for one in facts[2:]) == [
        ("failed", "[2]"),
        ("finished", "[]"),
    ]


def test_a_number_that_is_committed_late_is_told_too(settings, engine, notifier):
    hook = notifier()
    happen(engine, "finished", why="done")
    hook.look()
    place = Place.read(settings.home / "hooks.json", notifier()._place.record)
    # On a server an earlier number may appear after a later one.
    assert place.after < min(place.told)


def test_a_place_that_is_damaged_or_another_records_is_begun_anew(settings, engine, notifier):
    for text in ("{", '{"record": "other", "after": 999, "told": [], "waiting": {}}', "[]"):
        (settings.home / "hooks.json").write_text(text)
        notifier().look()
    assert told(settings) == []
    happen(engine, "finished", why="done")
    notifier().look()
    assert len(told(settings)) == 1


@pytest.mark.parametrize(
    ("command", "trouble"),
    [
        ((sys.executable, "-c", "import sys; print('no server'); sys.exit(3)"), "left with status 3"),
        (("no-such-command",), "cannot be started"),
        ((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"), "ended by signal 9"),
    ],
)
def test_a_command_that_fails_is_tried_again_twice_and_only_the_log_tells(
    settings, engine, notifier, tmp_path, command, trouble
):
    now = Now()
    hook = notifier(*command, monotonic=now)
    happen(engine, "finished", why="done")
    for seconds in (0.0, 5.0, 10.0, 15.0, 70.0, 1000.0):
        now.seconds = seconds
        hook.look()
    lines = (tmp_path / "daemon.log").read_text().splitlines()
    assert [f"try {number} of 3" in line and trouble in line for number, line in enumerate(lines, 1)] == [True] * 3
    assert trouble != "left with status 3" or "no server" in (settings.logs / "hooks.log").read_text()


def test_a_command_that_fails_at_the_end_is_tried_by_the_next_daemon(settings, engine, notifier):
    hook = notifier("no-such-command")
    happen(engine, "finished", why="done")
    hook.look(last=True)
    notifier().look()
    assert [one["event"] for one, _ in told(settings)] == ["finished"]


def test_a_command_that_takes_too_long_is_killed_with_its_children(settings, engine, notifier, tmp_path):
    script = "sleep 600 & echo $! > child; sleep 600"
    hook = notifier("sh", "-c", script, limit=2.0, pauses=())
    happen(engine, "finished", why="done")
    hook.look()
    assert "not done after 2 s" in (tmp_path / "daemon.log").read_text()
    child = int((settings.home / "child").read_text())
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


@contextmanager
def hooked(settings, since="1"):
    process = subprocess.Popen(
        [sys.executable, "-m", "eatnas_daemon.hooks", "--every", "0.1", "--since", since],
        env={**os.environ, "EATNAS_DB_URL": settings.database_url, "EATNAS_HOME": str(settings.home)},
        stdin=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.stdin.close()
        process.wait()


def configure(settings):
    (settings.home / "tell.py").write_text(TELL)
    (settings.home / "config.yaml").write_text(f"hooks:\n  on_event: {sys.executable} tell.py\n")


@pytest.mark.slow
def test_the_process_tells_what_the_supervisor_did_last_and_leaves_even_after_a_kill(settings, supervise):
    configure(settings)
    with hooked(settings) as process:
        until((settings.home / "hooks.json").exists)
        process.send_signal(signal.SIGKILL)
        process.wait()
    supervise(settings, 2)
    with hooked(settings) as process:
        until(lambda: told(settings))
        process.stdin.close()
        assert process.wait(60) == 0
    ((facts, _),) = told(settings)
    assert (facts["event"], facts["status"], facts["settled"]) == ("finished", "finished", 24)
    assert facts["best"]["fitness"] > 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hooks: {on_event: 3}", "hooks.on_event is 3"),
        ("hooks: {on_event: []}", "hooks.on_event is []"),
        ('hooks: {on_event: "mail \'me"}', "No closing quotation"),
        ("hooks: {on_event: mail, events: [born]}", "hooks.events is ['born']; expected a list of one or more of"),
        ("hooks: {on_event: mail, events: []}", "hooks.events is []"),
        ("hooks: {events: [failed]}", "hooks.on_event is missing; expected a command"),
        ("hooks: {on_events: mail}", "unknown key 'on_events'"),
    ],
)
def test_hooks_that_make_no_sense_are_one_line_that_says_where(tmp_path, text, named):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(EatnasError) as raised:
        read_hooks(tmp_path)
    assert named in str(raised.value)
    assert str(tmp_path / "config.yaml") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "hooks"),
    [
        ("storage: {max_bytes: 3GB}", None),
        ("storage: {max_bytes: wrong}", None),
        ("hooks: {on_event: }", None),
        ("hooks: {on_event: mail -s 'a b' me}", HooksConfig(on_event=("mail", "-s", "a b", "me"))),
        ("hooks: {on_event: [tell, me], events: [failed]}", HooksConfig(on_event=("tell", "me"), events=("failed",))),
    ],
)
def test_a_command_is_a_text_or_a_list(tmp_path, text, hooks):
    (tmp_path / "config.yaml").write_text(text)
    assert read_hooks(tmp_path) == hooks
