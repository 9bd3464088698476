"""Users' own training functions: their reports, their resumption, and their forbidden actions."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent, indent

import pytest
import torch

from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import FailureKind
from eatnas_db.plugins import SOURCE_DIGESTS, find_function
from eatnas_db.testing import check_training
from eatnas_db.yaml_files import parse_yaml
from eatnas_protocol.messages import Assign, Checkpointed, EpochDone, Finished, Progress, Released, Resumed
from eatnas_training.programs.training import train
from eatnas_training.worker_protocol import StopRequest
from support.plugin_packages import install_package
from support.trainings import Reports, after_calls, epoch_metrics, failed, finished, no_request

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugins" / "training"
PACKAGES = (f"program_sample_{number}" for number in itertools.count())
COUNTING = """
def train(network, task, recipe, report):
    batch, total = report.resume() or (0, 0)
    for epoch in range(report.finished_epochs, recipe.epochs):
        while batch < 3:
            total += network.architecture.blocks[batch].depth
            batch += 1
            report.checkpoint((batch, total) if batch == 1 else lambda: (batch, total))
        batch = 0
        report.epoch(epoch, error=1 / total, train_loss=total)
        report.checkpoint([batch, total])
"""
DROPOUT = """
import torch

def train(network, task, recipe, report):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    saved = report.resume()
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    inputs = torch.linspace(-1, 1, 32).reshape(8, 4)
    for epoch in range(report.finished_epochs, recipe.epochs):
        for _ in range(3):
            loss = (model(inputs).squeeze(1) - inputs.sum(1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        report.epoch(epoch, error=loss.detach())
        report.checkpoint({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
"""


@pytest.fixture
def program(tmp_path: Path, assignment: Callable[..., Assign]) -> Iterator[Callable[..., Assign]]:
    """Return a function that installs a program and makes assignments for it."""
    site = tmp_path / "site"
    site.mkdir()
    sys.path.insert(0, str(site))

    def make(source: str, folder: str | None = None, attempt: int = 1, **training: object) -> Assign:
        package = next(PACKAGES)
        install_package(site, package, dedent(source))
        identity = find_function(f"{package}:train").identity().to_json()
        made = assignment(
            attempt=attempt, data={"name": "none"}, checkpoint_folder=folder, program=identity, epochs=3, **training
        )
        made = Assign(**{**{name: getattr(made, name) for name in made.__slots__}, "objective_metric": "error"})
        Path(made.checkpoint_folder).mkdir(exist_ok=True)
        return made

    try:
        yield make
    finally:
        sys.path.remove(str(site))
        SOURCE_DIGESTS.clear()


def run(assign: Assign, stop_request: Callable[[], StopRequest] = no_request) -> Reports:
    return Reports(train(assign, stop_request), assign.checkpoint_folder)


def again(assign: Assign, attempt: int) -> Assign:
    return Assign(**{**{name: getattr(assign, name) for name in assign.__slots__}, "attempt": attempt})


def test_program_reports_metrics_of_its_own(program):
    reports = run(program(COUNTING))
    done = finished(reports)
    assert done.metrics == {"error": reports.of(EpochDone)[-1].metrics["error"], "train_loss": 12.0}
    assert [report.train_loss for report in reports.of(EpochDone)] == [4, 8, 12]
    assert done.data_digest == "0" * 64
    assert len(reports.of(Checkpointed)) == 1  # no earlier checkpoint was due


@pytest.mark.parametrize("source", [COUNTING, DROPOUT])
def test_training_stopped_at_every_checkpoint_gives_the_same_metrics(program, source):
    assign = program(source)
    whole = run(assign)
    parts = program(source)
    for attempt in range(1, 20):
        reports = run(again(parts, attempt), after_calls(1, StopRequest.RELEASE))
        if isinstance(reports[-1], Finished):
            break
        assert isinstance(reports[-1], Released)
        assert attempt == 1 or reports.only(Resumed).path is not None
    assert attempt > 3
    assert epoch_metrics(reports) == epoch_metrics(whole)
    assert finished(reports).metrics == finished(whole).metrics


def test_checkpoint_of_another_program_is_not_used(program):
    first = program(COUNTING)
    run(first)
    other = program(COUNTING + "# changed\n", folder=first.checkpoint_folder, attempt=2)
    assert run(other).only(Resumed).path is None


def test_cancelled_program_stops_without_a_checkpoint(program):
    reports = run(program(COUNTING), after_calls(2, StopRequest.CANCEL))
    assert isinstance(reports[-1], Released)
    assert reports.of(Checkpointed) == []


def test_program_that_swallows_the_stop_request_still_stops(program):
    source = """
    def train(network, task, recipe, report):
        for epoch in range(recipe.epochs):
            try:
                report.epoch(epoch, error=1)
            except BaseException:
                pass
    """
    assert isinstance(run(program(source), after_calls(1, StopRequest.RELEASE))[-1], Released)


def test_long_epoch_reports_progress(program):
    source = """
    def train(network, task, recipe, report):
        for epoch in range(recipe.epochs):
            report.progress(1, 2)
            report.epoch(epoch, error=1)
    """
    (progress,) = run(program(source)).of(Progress)
    assert (progress.epoch, progress.batch, progress.batches) == (0, 1, 2)


EPOCHS = "for epoch in range(recipe.epochs): report.epoch(epoch, error=1)"


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("1 / 0", FailureKind.EXCEPTION, "division by zero"),
        ("import sys; sys.exit(3)", FailureKind.EXCEPTION, "called sys.exit(3) instead of returning"),
        ("raise KeyboardInterrupt('x')", FailureKind.EXCEPTION, "raised KeyboardInterrupt: x"),
        ("raise MemoryError", FailureKind.OUT_OF_MEMORY, "MemoryError"),
        ("report.epoch(0, error=float('nan'))", FailureKind.DIVERGED, "error is nan in epoch 0"),
        ("report.epoch(0, error=1, other=float('inf'))", FailureKind.DIVERGED, "other is inf in epoch 0"),
        ("report.epoch(0, error=1.7e308)", FailureKind.DIVERGED, "error is 1.7e+308 in epoch 0, which is over 1e+150"),
        ("pass", FailureKind.INVALID_REPORT, "ended after 0 of 3 epochs"),
        ("report.epoch(0, error=1)", FailureKind.INVALID_REPORT, "ended after 1 of 3 epochs"),
        ("report.epoch(1, error=1)", FailureKind.INVALID_REPORT, "report.epoch(1): the next epoch is number 0"),
        ("report.epoch(True, error=1)", FailureKind.INVALID_REPORT, "the next epoch is number 0"),
        (
            f"{EPOCHS}\nreport.epoch(3, error=1)",
            FailureKind.INVALID_REPORT,
            "all epochs of the recipe are already reported (3)",
        ),
        ("report.epoch(0, loss=1)", FailureKind.INVALID_REPORT, "epoch 0 has no error, the objective.metric"),
        ("report.epoch(0, error='low')", FailureKind.INVALID_REPORT, "error of epoch 0 is 'low', not a number"),
        ("report.epoch(0, error=[1])", FailureKind.INVALID_REPORT, "error of epoch 0 is [1], not a number"),
        ("report.epoch(0, error=1, fitness=1)", FailureKind.INVALID_REPORT, "the metric fitness is reserved"),
        ("report.epoch(0, error=1, **{'a b': 1})", FailureKind.INVALID_REPORT, "'a b' is not a valid metric name"),
        ("report.epoch(0, error=1, **{f'm{i}': i for i in range(40)})", FailureKind.INVALID_REPORT, "at most 32"),
        ("import random; random.random()", FailureKind.INVALID_REPORT, "the global generator of random"),
        ("import numpy; numpy.random.rand()", FailureKind.INVALID_REPORT, "the global generator of numpy.random"),
        ("report.checkpoint({'a': object()})", FailureKind.INVALID_REPORT, "state['a'] is of type builtins.object"),
        ("report.checkpoint({'a': [lambda: 1]})", FailureKind.INVALID_REPORT, "state['a'][0] is of type"),
        ("report.checkpoint({(1, 2): 1})", FailureKind.INVALID_REPORT, "the key (1, 2) of state"),
        ("x = []; x.append(x); report.checkpoint(x)", FailureKind.INVALID_REPORT, "contains itself"),
        ("report.epoch(0, error=1); report.resume()", FailureKind.INVALID_REPORT, "report.resume: call it once"),
        ("report.epoch(0, error=1, latency_ms=1)", FailureKind.INVALID_REPORT, "the metric latency_ms is reserved"),
        ("report.epoch(0, error=1, number=1)", FailureKind.INVALID_REPORT, "the metric number is reserved"),
        (f"{EPOCHS}\nreport.checkpoint(lambda: report.progress(1, 2))", FailureKind.INVALID_REPORT, "return the state"),
        (f"{EPOCHS}\nreport.checkpoint(exit)", FailureKind.EXCEPTION, "called sys.exit(None) instead of returning"),
        ("report.progress(2**80, 2**80)", FailureKind.INVALID_REPORT, "does not exist; count from 0"),
        ("report.progress(3, 2)", FailureKind.INVALID_REPORT, "batch 3 of 2 does not exist"),
        ("task.data", FailureKind.INVALID_REPORT, "data.name is none, so there are no images"),
    ],
)
def test_misbehaving_program_is_one_explained_failure(program, body, kind, message):
    source = "def train(network, task, recipe, report):\n" + indent(body, "    ") + "\n"
    failure = failed(run(program(source)))
    assert (failure.kind, message in failure.message) == (kind, True), failure.message


def test_changed_program_is_no_failure_of_the_candidate(program):
    assign = program(COUNTING)
    package = assign.training["program"]["reference"].partition(":")[0]
    (Path(sys.path[0]) / package / "__init__.py").write_text(COUNTING.replace("1 / total", "2 / total"))
    SOURCE_DIGESTS.clear()
    failure = failed(run(assign))
    assert (failure.kind, failure.fatal) == (FailureKind.MISSING_PLUGIN, True)
    assert f"{package}:train has changed: the record was made with version 1.0" in failure.message


@pytest.mark.parametrize("source", ["import not_there", "raise ValueError('bad')", "def other(): pass"])
def test_unloadable_program_is_no_failure_of_the_candidate(program, source):
    failure = failed(run(program(source)))
    assert failure.kind == FailureKind.MISSING_PLUGIN
    assert "cannot be loaded" in failure.message


def test_program_may_build_the_network_and_read_images(program):
    source = """
    def train(network, task, recipe, report):
        images, labels = task.data.held_out.between(0, 4)
        logits = network.build()(images)
        assert logits.shape == (4, task.classes)
        for epoch in range(recipe.epochs):
            report.epoch(epoch, error=recipe.options["error"])
    """
    assign = program(source, options={"error": 0.25})
    with_images = {**{name: getattr(assign, name) for name in assign.__slots__}, "data": {"name": "digits"}}
    assert finished(run(Assign(**with_images))).metrics == {"error": 0.25}


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("pass", ""),
        ("import threading; threading.Thread(target=GATE.wait, daemon=True, name='own').start()", "1 thread (own)"),
        ("import os; os.posix_spawn('/bin/sleep', ['sleep', '600'], {})", "1 child process"),
        ("import os; os.chdir('/')", "a changed working directory"),
        ("import torch; torch.set_default_dtype(torch.float64)", "a changed default dtype of torch"),
        ("import sys, io; sys.stdout = io.StringIO()", "a changed sys.stdout"),
    ],
)
def test_leftovers_of_a_program_are_reported(program, process_state, body, left):
    head = "import threading\nGATE = threading.Event()\ndef train(network, task, recipe, report):\n"
    source = f"{head}    {body}\n    {EPOCHS}"
    assert finished(run(program(source))).left_behind == left


def test_report_of_a_forked_child_is_refused(program):
    source = """
    import os

    def train(network, task, recipe, report):
        child = os.fork()
        if child == 0:
            try:
                report.epoch(0, error=1)
            except Exception as error:
                os._exit(7 if "a child process calls a method of report" in str(error) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        for epoch in range(recipe.epochs):
            report.epoch(epoch, error=2)
    """
    assert finished(run(program(source))).metrics == {"error": 2}


@pytest.fixture
def process_state() -> Iterator[None]:
    """Restore the process-wide state that programs change."""
    folder, stdout = Path.cwd(), sys.stdout
    yield
    sys.stdout = stdout
    torch.set_default_dtype(torch.float32)
    os.chdir(folder)


def test_failed_program_with_leftovers_ends_its_worker(program, process_state):
    source = "import os\ndef train(network, task, recipe, report):\n    os.chdir('/')\n    1 / 0\n"
    failure = failed(run(program(source)))
    assert (failure.kind, failure.fatal) == (FailureKind.EXCEPTION, True)


def test_threads_of_a_program_report_in_turn(program):
    source = """
    import threading

    def train(network, task, recipe, report):
        for epoch in range(recipe.epochs):
            threads = [threading.Thread(target=report.checkpoint, args=(epoch,)) for _ in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            report.epoch(epoch, error=1)
    """
    assert finished(run(program(source))).metrics == {"error": 1}


def test_failure_leaves_no_thread_behind(program):
    import threading

    failed(run(program("def train(network, task, recipe, report):\n    report.epoch(0)\n")))
    assert [thread.name for thread in threading.enumerate() if thread.name == "program"] == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (DROPOUT, None),
        (DROPOUT.replace("        report.checkpoint", "        # "), "call report.checkpoint after each"),
        (DROPOUT.replace('optimizer.load_state_dict(saved["optimizer"])', "pass"), "stopped and resumed differs"),
        (
            DROPOUT.replace("loss.detach()", "loss.detach() + __import__('os').urandom(1)[0]"),
            "with the same seed differ",
        ),
        (DROPOUT.replace("loss.detach()", "__import__('random').random()"), "the global generator of random"),
    ],
)
def test_check_training_finds_broken_promises(program, source, complaint):
    reference = program(source).training["program"]["reference"]
    if complaint is None:
        assert check_training(reference, metric="error", learning_rate=0.01).keys() == {"error"}
    else:
        with pytest.raises(AssertionError, match=complaint):
            check_training(reference, metric="error", learning_rate=0.01)


def test_example_of_a_training_keeps_its_promises(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    spec = parse_spec(parse_yaml((EXAMPLE / "words.yaml").read_text()))
    scores = check_training("eatnas_words:train", metric=spec.objective.metric, learning_rate=0.01)
    assert 1 < scores["perplexity"] < 20
