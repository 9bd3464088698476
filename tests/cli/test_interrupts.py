"""Ctrl-C ends a command without a traceback, leaves no process behind, and loses nothing."""

import json
import os
import signal

import psutil
import pytest

pytestmark = pytest.mark.usefixtures("without_mlflow")


@pytest.fixture
def interrupt(until):
    """Return a function that interrupts a command as a terminal does: it sends a signal to the process group.

    The function waits for all processes of the command, and returns the exit status.
    """

    def end(process):
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=200)
        assert "Traceback" not in out + err
        until(lambda: not any(member.is_running() for member in family))
        return process.returncode

    return end


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
def test_drained_run_continues_later(endless, eatnas_within, eatnas_started, until, interrupt):
    process = eatnas_started("run", "tiny", "--slots", "2")
    until(lambda: len(json.loads(eatnas_within("daemon", "status", "--format", "json"))["work"]) == 2)
    assert interrupt(process) == 75
    found = json.loads(eatnas_within("daemon", "status", "--format", "json"))
    assert (found["running"], found["work"]) == (False, [])
    assert "was stopped on request" in eatnas_within("query", "events", "tiny")


@pytest.mark.slow
def test_demo_is_drained(record, eatnas_within, eatnas_started, until, interrupt):
    process = eatnas_started("demo")
    until(lambda: json.loads(eatnas_within("daemon", "status", "--format", "json"))["work"])
    assert interrupt(process) == 75


@pytest.mark.slow
def test_estimate_is_interrupted(record, eatnas, eatnas_started, spec, until, interrupt):
    process = eatnas_started("search", "estimate", spec(), "--samples", "100")
    until(lambda: any("eatnas_training.calibrate" in child.cmdline() for child in children(process)))
    assert interrupt(process) == 130
    assert eatnas("search", "list", "--format", "json") == "[]\n"


def test_data_preparation_is_interrupted(record, eatnas_started, until, interrupt):
    process = eatnas_started("data", "prepare", "digits")
    until(lambda: children(process))
    assert interrupt(process) == 130
