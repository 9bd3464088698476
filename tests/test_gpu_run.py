"""The run on a machine with a GPU: its steps exist, and a step that fails or hangs stops no other."""

import ast
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"
STEP = """
import json, sys, time
name, facts = sys.argv[1], sys.argv[sys.argv.index("--facts") + 1]
with open(facts, "w") as file:
    json.dump({"bars": [{"bar": "b", "measured": 1, "wanted": "1", "met": True}], "rows": [{"a": "x|y"}]}, file)
print("output of", name, flush=True)
if name == "hangs":
    time.sleep(600)
sys.exit({"fails": 3, "does_not_apply": 77}.get(name, 0))
"""


@pytest.fixture
def gpu_run(monkeypatch):
    """Import the modules of the run, which are in one folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import run
    import steps

    yield run, steps
    for name in ("run", "steps"):
        sys.modules.pop(name)


def test_programs_have_the_steps_of_their_part(gpu_run):
    _, steps = gpu_run
    for part in steps.PARTS:
        tree = ast.parse((FOLDER / f"{part}.py").read_text())
        (call,) = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_program"
        ]
        table = call.args[1]
        assert isinstance(table, ast.Dict)
        names = [key.value for key in table.keys if isinstance(key, ast.Constant)]
        assert names == [step.name for step in steps.steps_of(part)]
        assert all(0 < step.seconds < steps.PART_SECONDS for step in steps.steps_of(part))


def test_failing_or_hanging_step_stops_no_other(gpu_run, tmp_path):
    run, steps = gpu_run
    program = tmp_path / "sources" / "benchmarks" / "gpu" / "product.py"
    program.parent.mkdir(parents=True)
    program.write_text(STEP)
    options = Namespace(device="cpu", bundle=tmp_path)
    results = run.Results(tmp_path / "out", "product", {"commit": "c", "started_at": "now", "device": "cpu"})
    limits = {"fails": 60, "hangs": 1.5, "late": 0, "does_not_apply": 60, "passes": 60}
    for name, limit in limits.items():
        results.add(run.run_step(steps.Step("product", name, 60, "something"), options, tmp_path, limit))
    content = json.loads((tmp_path / "out" / "gpu-product.json").read_text())
    outcomes = {row["name"]: row["outcome"] for row in content["steps"]}
    assert outcomes == {
        "fails": "failed",
        "hangs": "out of time",
        "late": "skipped",
        "does_not_apply": "skipped",
        "passes": "passed",
    }
    failed, *_, passed = content["steps"]
    assert (failed["status"], failed["output"]) == (3, ["output of fails"])
    assert passed["facts"]["rows"] == [{"a": "x|y"}]
    page = (tmp_path / "out" / "gpu-product.md").read_text()
    assert "| b | 1 | 1 | yes |" in page
    assert "| x\\|y |" in page
    assert "output of fails" in page
