"""The benchmark run on a machine with a GPU: a step that fails or hangs does not stop other steps, and a kill loses no
results.
"""

import ast
import json
import os
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from argparse import Namespace
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement

from support.waiting import eventually

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"
MODULES = ("run", "results", "steps")
STEP = """
import json, subprocess, sys, time
name, facts = sys.argv[1], sys.argv[sys.argv.index("--facts") + 1]
with open(facts, "w") as file:
    json.dump({"bars": [{"bar": "b", "measured": 1, "wanted": "1", "met": True}], "rows": [{"a": "x|y"}],
        "use": {"busy": 0.123456789, "slots": [{"slot": 7}]}, "lines": ["one", "two"]}, file)
print("output of", name, flush=True)
if name == "hangs":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print(child.pid, flush=True)
    time.sleep(600)
sys.exit({"fails": 3, "does_not_apply": 77}.get(name, 0))
"""
PROGRAM = """
import os, time
from recording import run_program
def end(context):
    context.facts.set("value", 1)
def hang(context):
    context.facts.set("pid", os.getpid())
    time.sleep(600)
run_program(None, {"machine": end, "tests": hang})
"""
LATE_PROGRAM = """
import time
imported = time.monotonic()
from recording import run_program
def record(context):
    context.facts.set("seconds_after_imports", time.monotonic() + context.seconds_left - imported)
run_program(None, {"machine": record})
"""
STOPPED_TWICE = """
import signal, run
signal.signal(signal.SIGTERM, run.stop)
try:
    signal.raise_signal(signal.SIGTERM)
except run.StoppedError:
    signal.raise_signal(signal.SIGTERM)
    print("killed the step")
"""


@pytest.fixture
def gpu_run(monkeypatch):
    """Return the modules of the run, imported from their folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import results
    import run
    import steps

    yield run, results, steps
    for name in MODULES:
        sys.modules.pop(name)


def test_programs_have_the_steps_of_their_part(gpu_run):
    *_, steps = gpu_run
    for part in steps.PARTS:
        tree = ast.parse((FOLDER / f"{part}.py").read_text())
        (call,) = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_program"
        ]
        table = call.args[1]
        assert isinstance(table, ast.Dict)
        names = {key.value for key in table.keys if isinstance(key, ast.Constant)}
        assert names == {step.name for step in steps.steps_of(part)}


def test_bundle_carries_every_dependency_that_is_not_left_out(gpu_run):
    import prepare

    sys.modules.pop("prepare")
    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]
    needed = {Requirement(text).name for text in project["dependencies"]}
    carried = {Requirement(text).name for text in prepare.PACKAGES}
    assert needed - carried == set(prepare.LEFT_OUT)


@pytest.mark.parametrize("part", ["product", "training"])
def test_part_ends_in_time_if_every_step_hangs(gpu_run, tmp_path, part):
    run, results_module, steps = gpu_run
    now = 0.0
    budget = steps.Budget(steps.PART_SECONDS, lambda: now)
    results = results_module.Results(tmp_path, part, {"commit": "c", "started_at": "now", "device": "cpu"})

    def hang(step, row):
        nonlocal now
        now += row["limit"] + steps.KILL_SECONDS
        row["outcome"] = "out of time"

    now += run.INSTALL_SECONDS + steps.KILL_SECONDS
    run.run_steps(steps.steps_of(part), budget, results, hang, 1.0)
    assert now <= steps.PART_SECONDS - 5
    outcomes = [row["outcome"] for row in results.content["steps"]]
    started = outcomes.count("out of time")
    assert started >= 3
    assert outcomes == ["out of time"] * started + ["no time left"] * (len(steps.steps_of(part)) - started)
    missing = " ".join(step.name for step in steps.steps_of(part)[started:])
    assert f"`--steps {missing} --out ANOTHER_FOLDER`" in (tmp_path / f"gpu-{part}.md").read_text()


def test_failing_or_hanging_step_stops_no_other(gpu_run, tmp_path):
    run, results_module, steps = gpu_run
    program = tmp_path / "sources" / "benchmarks" / "gpu" / "product.py"
    program.parent.mkdir(parents=True)
    program.write_text(STEP)
    options = Namespace(device="cpu", bundle=tmp_path)
    facts = {"commit": "c", "started_at": "now", "device": "cpu"}
    results = results_module.Results(tmp_path / "out", "product", facts)
    for name, limit in {"fails": 60, "hangs": 1.5, "does_not_apply": 60, "passes": 60}.items():
        row = run.new_row(name, "something", limit)
        results.add(row)
        run.run_step(steps.Step("product", name, 60, "something"), row, options, tmp_path, results)
    content = json.loads((tmp_path / "out" / "gpu-product.json").read_text())
    outcomes = {row["name"]: row["outcome"] for row in content["steps"]}
    assert outcomes == {
        "fails": "failed",
        "hangs": "out of time",
        "does_not_apply": "skipped",
        "passes": "passed",
    }
    failed, hung, *_, passed = content["steps"]
    assert (failed["status"], failed["output"]) == (3, ["output of fails"])
    assert passed["facts"]["rows"] == [{"a": "x|y"}]
    page = (tmp_path / "out" / "gpu-product.md").read_text()
    assert "| b | 1 | 1 | yes |" in page
    assert "| x\\|y |" in page
    assert "`use`: busy 0.12346\n\n`slots`\n\n| slot |\n|---|\n| 7 |" in page
    assert "```text\none\ntwo\n```" in page
    assert "output of fails" in page
    eventually(lambda: not is_running(int(hung["output"][-1])))


def test_step_ends_before_its_limit_counted_from_its_start(gpu_run, tmp_path):
    run, results_module, steps = gpu_run
    make_bundle(tmp_path)
    (tmp_path / "sources" / "benchmarks").parent.mkdir()
    (tmp_path / "benchmarks").rename(tmp_path / "sources" / "benchmarks")
    (tmp_path / "sources" / "benchmarks" / "gpu" / "product.py").write_text(LATE_PROGRAM)
    facts = {"commit": "c", "started_at": "now", "device": "cpu"}
    results = results_module.Results(tmp_path / "out", "product", facts)
    row = run.new_row("machine", "something", 60)
    results.add(row)
    options = Namespace(device="cpu", bundle=tmp_path)
    run.run_step(steps.Step("product", "machine", 60, "something"), row, options, tmp_path, results)
    assert row["outcome"] == "passed", row["output"]
    assert 0 < row["facts"]["seconds_after_imports"] < 0.9 * 60


@pytest.mark.parametrize(("number", "outcome"), [("SIGKILL", "running"), ("SIGTERM", "stopped by SIGTERM")])
def test_killed_run_keeps_its_results_and_ends_its_step(tmp_path, number, outcome):
    make_bundle(tmp_path)
    command = [sys.executable, str(FOLDER / "run.py"), "--part", "product", "--device", "cpu"]
    command += ["--bundle", str(tmp_path), "--out", str(tmp_path / "out"), "--steps", "machine", "tests"]
    file = tmp_path / "out" / "gpu-product.json"
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}) as process:
        pid = eventually(lambda: file.exists() and json.loads(file.read_text())["steps"][-1]["facts"].get("pid"))
        process.send_signal(signal.Signals[number])
        process.wait()
    _, machine, tests = json.loads(file.read_text())["steps"]
    assert (machine["outcome"], machine["facts"]) == ("passed", {"value": 1})
    assert (tests["outcome"], tests["facts"]) == (outcome, {"pid": pid})
    assert f"`pid`: {pid}" in file.with_suffix(".md").read_text()
    eventually(lambda: not is_running(pid))


def test_only_the_end_of_a_long_output_is_read(gpu_run, tmp_path):
    run, *_ = gpu_run
    log = tmp_path / "step.log"
    assert run.last_lines(log) == []
    log.write_text("first\n" + "x" * run.OUTPUT_BYTES + "\nlast é\n")
    shortened, last = run.last_lines(log)
    assert last == "last é"
    assert len(shortened) < run.OUTPUT_BYTES


def test_second_signal_does_not_shorten_the_kill_of_the_step():
    done = subprocess.run([sys.executable, "-c", STOPPED_TWICE], cwd=FOLDER, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "killed the step\n"), done.stderr


def make_bundle(folder):
    """Create a bundle of an empty wheel and a program with two steps. The second step hangs."""
    sources, wheels = folder / "benchmarks" / "gpu", folder / "wheels"
    sources.mkdir(parents=True)
    wheels.mkdir()
    (sources / "product.py").write_text(PROGRAM)
    (sources / "recording.py").write_bytes((FOLDER / "recording.py").read_bytes())
    with tarfile.open(folder / "sources.tar.gz", "w:gz") as archive:
        archive.add(folder / "benchmarks", "benchmarks")
    with zipfile.ZipFile(wheels / "empty-1.0-py3-none-any.whl", "w") as wheel:
        information = "empty-1.0.dist-info"
        wheel.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: empty\nVersion: 1.0\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")


def is_running(pid):
    """Return whether a process is running. A zombie is not running."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
