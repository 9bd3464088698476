"""The hook command gets each event in time, and a failing command does no harm."""

import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest
from sqlalchemy import delete, func, select

from eatnas_daemon.hooks.delivery_state import DeliveryState
from eatnas_daemon.hooks.notifier import Notifier
from eatnas_db import events
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.states import DesiredState
from eatnas_db.errors import EatnasError
from eatnas_db.home_config import HOOK_EVENTS, HooksConfig, read_hooks
from eatnas_db.queries.record_uuid import get_record_uuid
from eatnas_db.schema.events import event
from eatnas_db.searches.control import set_desired_state, set_waiting_reason
from support.waiting import eventually

HOOK_SCRIPT = """
import json, os, sys
payload = json.load(sys.stdin)
names = ("EATNAS_EVENT", "EATNAS_SEARCH", "EATNAS_COUNT", "EATNAS_CANDIDATE", "EATNAS_WORDS", "EATNAS_HOME")
with open("calls.jsonl", "a") as file:
    print(json.dumps([payload, {name: os.environ.get(name) for name in names}]), file=file)
print("received", payload["event"])
"""


class Clock:
    """A monotonic clock that a test sets."""

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
def new_notifier(settings, engine, log):
    def make(*command, events=HOOK_EVENTS, **options):
        config = HooksConfig(on_event=command or (sys.executable, "-c", HOOK_SCRIPT), events=events)
        return Notifier(engine, settings, config, log, since=1.0, **options)

    return make


def calls(settings):
    """Return the payload and the environment of each call of the command."""
    file = settings.home / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def payloads(settings):
    return [payload for payload, _ in calls(settings)]


def record_event(engine, kind, candidate=None, at=100.0, **detail):
    with transaction(engine) as connection:
        events.record_event(connection, at, kind, search_id=1, candidate_id=candidate, detail=detail or None)


def desire(engine, state):
    with transaction(engine) as connection:
        set_desired_state(connection, "s", state, 100.0)


def wait_for(engine, reason):
    with transaction(engine) as connection:
        set_waiting_reason(connection, reason)


def test_events_after_a_restored_backup_are_delivered(settings, engine, new_notifier):
    notifier = new_notifier(collection_seconds=0.0)
    with read_transaction(engine) as connection:
        backed_up = connection.execute(select(func.max(event.c.id))).scalar_one()
    for at in (100.0, 101.0, 102.0):
        record_event(engine, "failed", candidate=1, at=at, failure="diverged", message="nan")
        notifier.deliver()
    with transaction(engine) as connection:
        connection.execute(delete(event).where(event.c.id > backed_up))
    # After the restore, new events get the ids of the lost events.
    record_event(engine, "failed", candidate=2, at=200.0, failure="hang", message="silent")
    new_notifier(collection_seconds=0.0).deliver()
    assert [payload["candidate"] for payload in payloads(settings)] == [1, 1, 1, 2]


def test_command_receives_events_as_json_and_environment(settings, engine, new_notifier):
    notifier = new_notifier(collection_seconds=0.0)
    notifier.deliver()
    assert calls(settings) == []  # events before the first start are not delivered
    desire(engine, DesiredState.PAUSED)
    notifier.deliver()
    desire(engine, DesiredState.RUN)
    record_event(engine, "failed", candidate=1, failure="diverged", message="nan")
    wait_for(engine, "workers cannot be started: no fork")
    notifier.deliver()
    record_event(engine, "finished", why="done")
    notifier.deliver()
    notifier.deliver()
    received = payloads(settings)
    assert sorted(payload["event"] for payload in received[1:3]) == ["failed", "waiting"]
    assert [received[0]["event"], received[3]["event"]] == ["paused", "finished"]
    by_event = {payload["event"]: payload for payload in received}
    assert by_event["waiting"]["words"] == "the search waits: workers cannot be started: no fork"
    assert by_event["failed"]["words"].endswith(": diverged, nan")
    assert (by_event["failed"]["candidate"], by_event["failed"]["count"]) == (1, 1)
    assert (by_event["finished"]["detail"], by_event["finished"]["budget"]) == ({"why": "done"}, 24)
    assert by_event["paused"]["status"] == "paused"
    assert {payload["search"] for payload in received} == {"s"}
    environments = {environment["EATNAS_EVENT"]: environment for _, environment in calls(settings)}
    assert environments["failed"]["EATNAS_CANDIDATE"] == "1"
    assert environments["finished"]["EATNAS_SEARCH"] == "s"
    assert "received finished" in (settings.logs / "hooks.log").read_text()


def test_waiting_of_a_damaged_search_is_delivered(settings, engine, new_notifier):
    notifier = new_notifier()
    with transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE eatnas_search SET spec = '{' WHERE id = 1")
    wait_for(engine, "its spec is not JSON")
    notifier.deliver()
    (payload,) = payloads(settings)
    assert (payload["words"], payload["best"]) == ("the search waits: its spec is not JSON", None)


def test_only_configured_events_are_delivered(settings, engine, new_notifier):
    notifier = new_notifier(events=("finished",))
    desire(engine, DesiredState.PAUSED)
    wait_for(engine, "something")
    record_event(engine, "failed", candidate=1, failure="diverged")
    record_event(engine, "finished", why="done")
    notifier.deliver()
    assert [payload["event"] for payload in payloads(settings)] == ["finished"]


def test_many_failures_are_collected_into_one_call(settings, engine, new_notifier):
    clock = Clock()
    notifier = new_notifier(collection_seconds=600.0, monotonic=clock)
    for candidate in range(1, 5):
        record_event(engine, "failed", candidate=candidate, failure="diverged")
        notifier.deliver()
    assert [payload["candidates"] for payload in payloads(settings)] == [[1]]
    clock.seconds = 601.0
    notifier.deliver()
    assert [payload["candidates"] for payload in payloads(settings)] == [[1], [2, 3, 4]]
    assert [payload["count"] for payload in payloads(settings)] == [1, 3]
    record_event(engine, "failed", candidate=5, failure="diverged")
    notifier.deliver()
    notifier.deliver(last=True)
    assert [payload["candidates"] for payload in payloads(settings)][2:] == [[5]]


def test_next_daemon_delivers_undelivered_events(settings, engine, new_notifier):
    clock = Clock()
    notifier = new_notifier(monotonic=clock)
    for candidate in (1, 2):
        record_event(engine, "failed", candidate=candidate, failure="diverged")
        notifier.deliver()
    wait_for(engine, "something")
    notifier.deliver()
    # Imitate a kill: the event of candidate 2 is not delivered, and another event is recorded while no notifier is
    # running.
    record_event(engine, "finished", why="done")
    successor = new_notifier(monotonic=clock)
    successor.deliver()
    successor.deliver()
    received = payloads(settings)
    assert [payload["event"] for payload in received[:2]] == ["failed", "waiting"]
    assert sorted((payload["event"], str(payload["candidates"])) for payload in received[2:]) == [
        ("failed", "[2]"),
        ("finished", "[]"),
    ]


def test_events_after_the_watermark_are_kept_one_by_one(settings, engine, new_notifier):
    notifier = new_notifier()
    record_event(engine, "finished", why="done")
    notifier.deliver()
    with read_transaction(engine) as connection:
        state = DeliveryState.read(settings.home / "hooks.json", get_record_uuid(connection))
    # Do not advance to the last id, because on a server an event with a smaller id may become visible later.
    assert state.delivered_until < min(state.delivered)


def test_invalid_state_file_is_replaced(settings, engine, new_notifier):
    for text in ("{", '{"record": "other", "after": 999, "delivered": [], "waiting": {}}', "[]"):
        (settings.home / "hooks.json").write_text(text)
        new_notifier().deliver()
    assert calls(settings) == []
    record_event(engine, "finished", why="done")
    new_notifier().deliver()
    assert len(calls(settings)) == 1


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ((sys.executable, "-c", "import sys; print('no server'); sys.exit(3)"), "exited with status 3"),
        (("no-such-command",), "cannot be started"),
        ((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"), "killed by signal 9"),
    ],
)
def test_failing_command_is_tried_three_times_and_logged(settings, engine, new_notifier, tmp_path, command, error):
    clock = Clock()
    notifier = new_notifier(*command, monotonic=clock)
    record_event(engine, "finished", why="done")
    for seconds in (0.0, 5.0, 10.0, 15.0, 70.0, 1000.0):
        clock.seconds = seconds
        notifier.deliver()
    lines = (tmp_path / "daemon.log").read_text().splitlines()
    assert [f"try {number} of 3" in line and error in line for number, line in enumerate(lines, 1)] == [True] * 3
    assert error != "exited with status 3" or "no server" in (settings.logs / "hooks.log").read_text()


def test_last_failure_is_tried_again_by_the_next_daemon(settings, engine, new_notifier):
    notifier = new_notifier("no-such-command")
    record_event(engine, "finished", why="done")
    notifier.deliver(last=True)
    new_notifier().deliver()
    assert [payload["event"] for payload in payloads(settings)] == ["finished"]


def test_slow_command_is_killed_with_its_children(settings, engine, new_notifier, tmp_path):
    script = "sleep 600 & echo $! > child; sleep 600"
    notifier = new_notifier("sh", "-c", script, timeout_seconds=2.0, retry_delays_seconds=())
    record_event(engine, "finished", why="done")
    notifier.deliver()
    assert "killed after 2 s" in (tmp_path / "daemon.log").read_text()
    child = int((settings.home / "child").read_text())
    eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


@contextmanager
def hook_process(settings):
    process = subprocess.Popen(
        [sys.executable, "-m", "eatnas_daemon.hooks", "--every", "0.1", "--since", "1"],
        env={**os.environ, "EATNAS_DB_URL": settings.database_url, "EATNAS_HOME": str(settings.home)},
        stdin=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.stdin.close()
        process.wait()


@pytest.mark.slow
def test_process_delivers_last_events_and_exits_even_after_a_kill(settings, supervise):
    (settings.home / "hook.py").write_text(HOOK_SCRIPT)
    (settings.home / "config.yaml").write_text(f"hooks:\n  on_event: {sys.executable} hook.py\n")
    with hook_process(settings) as process:
        eventually((settings.home / "hooks.json").exists)
        process.send_signal(signal.SIGKILL)
        process.wait()
    supervise(settings, 2)
    with hook_process(settings) as process:
        eventually(lambda: calls(settings))
        process.stdin.close()
        assert process.wait(60) == 0
    (payload,) = payloads(settings)
    assert (payload["event"], payload["status"], payload["settled"]) == ("finished", "finished", 24)
    assert payload["best"]["fitness"] > 0


@pytest.mark.parametrize(
    ("text", "message"),
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
def test_invalid_configuration_is_reported_in_one_line(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(EatnasError) as raised:
        read_hooks(tmp_path)
    assert message in str(raised.value)
    assert str(tmp_path / "config.yaml") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("storage: {max_bytes: 3GB}", None),
        ("storage: {max_bytes: wrong}", None),
        ("hooks: {on_event: }", None),
        ("hooks: {on_event: mail -s 'a b' me}", HooksConfig(on_event=("mail", "-s", "a b", "me"))),
        (
            "hooks: {on_event: [notify, me], events: [failed]}",
            HooksConfig(on_event=("notify", "me"), events=("failed",)),
        ),
    ],
)
def test_command_is_a_string_or_a_list(tmp_path, text, config):
    (tmp_path / "config.yaml").write_text(text)
    assert read_hooks(tmp_path) == config
