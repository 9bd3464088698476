"""Whole searches whose scores come from a table of trained networks."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "tables" / "through_record.py"


def write_table(file, levels, missing=0, **columns):
    """Write a table with random scores for three seeds. Leave out `missing` of the codes."""
    draws = np.random.default_rng(1)
    codes = np.array(list(product(*map(range, levels))))
    codes = codes[np.sort(draws.permutation(len(codes))[missing:])]
    base = 50 + codes @ np.arange(1, len(levels) + 1)
    scores = base[:, None] + draws.normal(0, 3, (len(codes), 3))
    short = base + draws.normal(0, 6, len(codes))
    np.savez(file, X=codes, levels=np.array(levels), sel=scores, true=scores.mean(1), short=short, **columns)
    return file


def run_program(*arguments):
    done = subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_search_on_a_table_equals_decisions_in_one_process(tmp_path):
    file = write_table(tmp_path / "gaps.npz", (3, 4, 4, 3), missing=70)
    lines = run_program(file, "--candidates", "24", "--lag", "5", "--births", "guided", "--slots", "1", "2")
    assert [line["slots"] for line in lines] == [1, 2]
    assert all(line["as_in_process"] for line in lines)
    assert len({line["fingerprint"] for line in lines}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("keep", [[], ["--keep", "0.25"]], ids=["whole", "rungs"])
def test_cells_and_rungs_equal_decisions_in_one_process(tmp_path, keep):
    file = write_table(tmp_path / "nb201_drawn.npz", (5,) * 6)
    lines = run_program(file, "--candidates", "30", *keep)
    assert all(line["as_in_process"] for line in lines)
    assert len({line["fingerprint"] for line in lines}) == 2


def test_file_that_is_no_table_is_named(tmp_path):
    sys.path.insert(0, str(PROGRAM.parents[1]))
    try:
        from tables.tables import Table
    finally:
        sys.path.pop(0)
    whole = dict(np.load(write_table(tmp_path / "t.npz", (2, 2))))
    (tmp_path / "text.npz").write_text("text")
    damages = {"X": whole["X"] + 9, "sel": whole["sel"][:1], "true": whole["true"] * np.nan, "levels": np.array([2])}
    for name, column in damages.items():
        np.savez(tmp_path / f"{name}.npz", **{**whole, name: column})
    for name in (*damages, "text", "absent"):
        with pytest.raises(SystemExit, match=rf"{name}\.npz is not a table: "):
            Table.load(tmp_path / f"{name}.npz")
