"""A bad message, worker or search does not end or delay other workers and searches."""

import json
import os
import struct
import subprocess
import time
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update

from eatnas_daemon.supervision.faults import SearchError
from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_daemon.workers.worker_process import WorkerProcess
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import MemoryFallback
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.holds import list_holds
from eatnas_db.queries.searches import get_search, list_search_summaries
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt
from eatnas_db.searches.create import create_search
from eatnas_protocol.framing import encode
from eatnas_protocol.messages import (
    AncestorRetrained,
    Checkpointed,
    EpochDone,
    Exit,
    Failed,
    Finished,
    Phase,
    Progress,
    Ready,
    Released,
    Resumed,
    Unavailable,
)
from support.searches import SPEC, fetch_rows, fingerprint_of

QUICK = Timeouts(tick=0.02, database=0.05, restart=0.0, max_restart=0.0)
READY = Ready(pid=1, versions={"python": "3"}, device="cpu", cpu_capability="none")
EPOCH = EpochDone(
    candidate=1,
    attempt=1,
    epoch=0,
    train_loss=1.0,
    train_accuracy=0.5,
    val_loss=1.0,
    val_accuracy=0.5,
    learning_rate=0.1,
    seconds=1.0,
    ended_at=1.0,
)
FINISHED = Finished(candidate=1, attempt=1, accuracy=0.5, loss=1.0, data_digest="d", device_seconds=1.0)
FAILED = Failed(candidate=1, attempt=1, kind="exception", message="m", traceback="t", device_seconds=1.0)
CHECKPOINTED = Checkpointed(candidate=1, attempt=1, path="c.ckpt", digest="d", bytes=1, epoch=0, batch=0)


class PipeLauncher:
    """Starts processes that only sleep. The test writes their reports."""

    def log_file(self, slot):
        return Path(os.devnull)

    def launch(self, slot, device):
        worker_in, command_fd = os.pipe()
        report_fd, self.output = os.pipe()
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        os.close(worker_in)
        return WorkerProcess(process, command_fd, report_fd)


class Stage:
    """A supervisor with one slot, in which the test plays the worker."""

    def __init__(self, settings):
        self.engine = open_record(settings.database_url)
        self.launcher = PipeLauncher()
        self.clock = 0.0
        self.supervisor = Supervisor(
            self.engine,
            settings,
            self.launcher,
            slots=1,
            host_name="here",
            timeouts=QUICK,
            monotonic=lambda: self.clock,
            wall=lambda: 1e6 + self.clock,
        )
        (self.slot,) = self.supervisor.slots

    def tick(self, seconds=0.1):
        self.clock += seconds
        self.supervisor.tick()

    def send(self, *contents):
        for content in contents:
            os.write(self.launcher.output, content if isinstance(content, bytes) else encode(content))

    def start_training(self):
        """Give a worker its first assignment. Return the fields that name the attempt in its messages."""
        while self.slot.training is None:
            if self.slot.worker is None or self.slot.worker.ended:
                self.tick()
            elif self.slot.worker.ready is None:
                self.send(READY)
            self.tick()
        token = self.slot.training.token
        return {"candidate": token.candidate, "attempt": token.attempt}

    def attempt(self, token):
        query = select(attempt).where(attempt.c.candidate_id == token["candidate"])
        with read_transaction(self.engine) as connection:
            return connection.execute(query.where(attempt.c.number == token["attempt"])).one()

    def replace_worker(self):
        """Reject the worker if it has already reported, and wait for a worker that has not."""
        while self.slot.worker is None or self.slot.worker.ready is not None:
            if self.slot.worker is not None and not self.slot.worker.rejected:
                self.slot.worker.reject("the test needs another one")
            self.end_rejected_worker()
            self.tick()

    def end_rejected_worker(self):
        if self.slot.worker is not None and self.slot.worker.rejected and not self.slot.worker.ended:
            os.close(self.launcher.output)
            self.tick()

    def close(self):
        self.supervisor._close()
        self.engine.dispose()


@pytest.fixture(scope="module")
def stage(tmp_path_factory, home):
    stage = Stage(home(tmp_path_factory.mktemp("stage") / "home", budget__candidates=500))
    yield stage
    stage.close()


def frame(body):
    return struct.pack("!I", len(body)) + body


def as_text(report, **changes):
    return frame(json.dumps([type(report).__name__, asdict(report) | changes]).encode())


HOSTILE = {
    "unknown field": lambda token: as_text(EPOCH, **token, mood="good"),
    "missing field": lambda token: frame(json.dumps(["EpochDone", token]).encode()),
    "unknown message": lambda _: frame(b'["Gossip", {}]'),
    "command": lambda _: encode(Exit()),
    "text": lambda _: b"Traceback (most recent call last):\n",
    "oversized frame": lambda _: struct.pack("!I", 1 << 31),
    "unknown failure kind": lambda token: as_text(FAILED, **token, kind="boredom"),
    "surrogate as kind": lambda token: as_text(FAILED, **token, kind="\ud800"),
    "not a number": lambda token: as_text(EPOCH, **token, train_loss=float("nan")),
    "infinite accuracy": lambda token: as_text(FINISHED, **token, accuracy=float("inf")),
    "text for a number": lambda token: as_text(FINISHED, **token, accuracy="good"),
    "number for a text": lambda token: as_text(FAILED, **token, message=3),
    "huge integer": lambda token: as_text(EPOCH, **token, epoch=2**70),
    "negative seconds": lambda token: as_text(FINISHED, **token, device_seconds=-1e9),
    "one epoch twice": lambda token: 2 * as_text(EPOCH, **token),
    "list for a mapping": lambda _: as_text(READY, versions=["3"]),
    "surrogate as digest": lambda token: as_text(FINISHED, **token, data_digest="\ud800"),
    "surrogate as path": lambda token: as_text(CHECKPOINTED, **token, path="\ud800.ckpt"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_message_ends_its_worker_with_a_reason(stage, name):
    token = stage.start_training()
    stage.send(HOSTILE[name](token))
    stage.tick()
    worker = stage.slot.worker
    assert worker.rejected
    stage.end_rejected_worker()
    row = stage.attempt(token)
    assert (row.outcome, row.failure, row.message) == ("lost", "lost", worker.kill_reason.message)
    assert "worker" in row.message
    assert stage.supervisor.trouble is None


@pytest.mark.parametrize("text", ["caf\udce9.png", "nul \0 nul", "\ud800\udfff"])
def test_failure_with_any_text_is_recorded(stage, text):
    token = stage.start_training()
    stage.send(as_text(FAILED, **token, message=text, traceback=text))
    stage.tick()
    row = stage.attempt(token)
    assert row.failure == "exception"
    assert row.message.encode()
    assert "\0" not in row.message


def test_failure_that_another_training_may_cause_is_retried_alone(stage):
    token = stage.start_training()
    stage.send(as_text(FAILED, **token, kind="lost", fatal=True))
    stage.tick()
    assert stage.attempt(token).outcome == "lost"
    with read_transaction(stage.engine) as connection:
        query = select(candidate.c.thrift).where(candidate.c.id == token["candidate"])
        assert connection.execute(query).scalar_one() == MemoryFallback.ALONE
    stage.replace_worker()


def test_worker_with_another_ready_message_is_reported(stage):
    stage.replace_worker()
    stage.send(as_text(READY, mood="good"))
    stage.tick()
    os.close(stage.launcher.output)
    stage.tick(seconds=0)
    assert "unusable message" in stage.slot.start_error


def test_flooding_worker_does_not_occupy_the_supervisor(stage):
    stage.start_training()
    chunks = stage.slot.worker.process._read_chunks()
    for _ in range(1000):
        stage.send(bytes(1 << 15))
        if not next(chunks, None):
            break
    else:
        pytest.fail("a flood of bytes keeps the supervisor reading")


any_text = st.text(max_size=20) | st.sampled_from(["\ud800", "\0", "x" * 300, "../../x", ""])
any_number = st.floats() | st.integers(-(2**70), 2**70) | st.booleans() | any_text | st.none()
REPORTS = (
    AncestorRetrained,
    Checkpointed,
    EpochDone,
    Failed,
    Finished,
    Phase,
    Progress,
    Ready,
    Released,
    Resumed,
    Unavailable,
)


@st.composite
def reports(draw):
    """Return a report about the current training, with valid or arbitrary values, encoded as bytes."""
    kind = draw(st.sampled_from(REPORTS))
    values = {}
    for field in fields(kind):
        if field.name in ("candidate", "attempt"):
            values[field.name] = draw(st.just(field.name) | any_number)
        elif draw(st.booleans()):
            values[field.name] = draw(any_number | st.dictionaries(any_text, any_text, max_size=2))
        else:
            values[field.name] = draw(st.sampled_from([0, 1, 0.5, "c.ckpt", {}, "exception", None]))
    return kind.__name__, values


def check_hostile_reports(stage, sent, tail):
    """Send reports. Then require that the supervisor still works and that another worker can train."""
    token = stage.start_training()
    for name, values in sent:
        filled = {key: token.get(value, value) if isinstance(value, str) else value for key, value in values.items()}
        stage.send(frame(json.dumps([name, filled]).encode()))
    stage.send(tail)
    for _ in range(3):
        stage.tick()
        stage.end_rejected_worker()
    assert stage.supervisor.trouble is None
    stage.replace_worker()
    stage.start_training()


@hypothesis_settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(reports(), max_size=4), st.binary(max_size=10))
def test_arbitrary_reports_never_stop_the_supervisor(stage, sent, tail):
    check_hostile_reports(stage, sent, tail)


@pytest.mark.soak
@hypothesis_settings(max_examples=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(reports(), max_size=4), st.binary(max_size=10))
def test_many_arbitrary_reports_never_stop_the_supervisor(stage, sent, tail):
    check_hostile_reports(stage, sent, tail)


def test_deleted_search_cannot_be_set_aside(stage):
    stage.supervisor.errors.clear()
    stage.supervisor._recorder.set_aside(SearchError(10**6, KeyError("evolution")))
    stage.tick(seconds=5)
    assert stage.supervisor.trouble is None
    assert not stage.supervisor.errors


@pytest.fixture
def pair(tmp_path, home):
    """Return a home with the search `s`, and the search `broken`, whose spec lacks the section `evolution`."""
    settings = home(tmp_path / "home", budget__candidates=8)
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        spec = parse_spec(SPEC, {"name": "broken", "seed": 1, "budget.candidates": 8})
        create_search(connection, spec, task=Task(8, 1, 10), data_digest="arithmetic", slots=2, now=0.0)
        whole = get_search(connection, "broken").spec
        damaged = {name: section for name, section in whole.items() if name != "evolution"}
        connection.execute(update(search).where(search.c.name == "broken").values(spec=damaged))
    yield settings, engine, whole
    engine.dispose()


def statuses(engine):
    with read_transaction(engine) as connection:
        return {row.name: row.status for row in list_search_summaries(connection)}


@pytest.mark.slow
def test_broken_search_is_set_aside_and_taken_up_again(pair, supervise):
    settings, engine, whole = pair
    seen = []

    def observe(supervisor):
        status = statuses(engine)
        if not seen and status["s"] == "finished" and status["broken"].startswith("waiting"):
            with transaction(engine) as connection:
                seen.extend(list_holds(connection))
                connection.execute(update(search).where(search.c.name == "broken").values(spec=whole))
        if set(status.values()) == {"finished"}:
            supervisor.stop()

    supervise(settings, only=None, on_tick=observe, timeouts=QUICK)
    (hold,) = seen
    assert (hold.search, hold.host, hold.cause) == ("broken", "here", "error")
    assert hold.reason == "KeyError: 'evolution'"
    assert hold.retry_at > hold.since_at
    assert fingerprint_of(engine, "broken") == fingerprint_of(engine)
    kinds = fetch_rows(settings, select(event.c.kind).where(event.c.kind.in_(("held", "hold_lifted"))))
    assert [row.kind for row in kinds] == ["held", "hold_lifted"]
    with read_transaction(engine) as connection:
        assert list_holds(connection) == ()


DAMAGED = {
    "cut": ("spec", "{"),
    "scalar": ("spec", '"text"'),
    "empty": ("spec", "{}"),
    "list": ("spec", "[]"),
    "wrong-type": ("spec", '{"training": 1, "budget": [], "reevaluation": {"top": "x"}}'),
    "macro": ("macro", "not json"),
    "task": ("task", ""),
}


def test_search_with_damaged_json_stops_no_other_search(tmp_path, home, supervise):
    settings = home(tmp_path / "home", budget__candidates=4)
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        for name, (column, content) in DAMAGED.items():
            spec = parse_spec(SPEC, {"name": name, "priority": 1, "budget.candidates": 4})
            create_search(connection, spec, task=Task(8, 1, 10), data_digest="arithmetic", slots=2, now=0.0)
            damage = text(f"UPDATE eatnas_search SET {column} = :content, settled = 0 WHERE name = :name")
            connection.execute(damage, {"content": content, "name": name})

    def observe(supervisor):
        if statuses(engine)["s"] == "finished":
            supervisor.stop()

    supervise(settings, only=None, on_tick=observe, timeouts=QUICK)
    violations = list(list_violations(engine, settings.artifacts))
    (unreadable,) = [violation for violation in violations if "can be read" in violation.invariant]
    assert unreadable.count == len(DAMAGED)
    engine.dispose()


@pytest.mark.slow
def test_missing_data_delay_a_search_and_leave_no_trace(tmp_path, home, supervise, fast):
    expected = supervise(home(tmp_path / "calm", budget__candidates=8))
    settings = home(tmp_path / "home", budget__candidates=8)
    engine = open_record(settings.database_url)
    file, seen = tmp_path / "images", []

    def mount(supervisor):
        status = statuses(engine)["s"]
        if status.startswith("waiting") and not file.exists():
            seen.append(status)
            with read_transaction(engine) as connection:
                (hold,) = list_holds(connection)
            if hold.tries >= 2:
                file.touch()

    wall = lambda: time.time() * 60  # shortens the delays  # noqa: E731
    program = (*fast, "--needs-file", str(file))
    assert supervise(settings, program=program, on_tick=mount, timeouts=QUICK, wall=wall) == expected
    assert set(seen) == {f"waiting: no file {file}"}
    attempts = fetch_rows(settings, select(attempt.c.outcome, attempt.c.failure))
    assert {tuple(row) for row in attempts} == {("released", None), ("scored", None)}
    counters = fetch_rows(settings, select(candidate.c.own_failures, candidate.c.losses))
    assert {tuple(row) for row in counters} == {(0, 0)}
    kinds = fetch_rows(settings, select(event.c.kind).where(event.c.kind.in_(("held", "hold_lifted"))))
    assert [row.kind for row in kinds] == ["held", "hold_lifted"]
    engine.dispose()
