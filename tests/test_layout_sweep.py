"""The sweep of memory layouts on a GPU covers the shapes that matter, and its page says which layout is slow."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"


@pytest.fixture
def sweep(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    known = set(sys.modules)
    import depthwise
    import recording

    yield depthwise, recording
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            sys.modules.pop(name)


def test_sweep_covers_odd_channels_kernels_strides_types_and_batches(sweep):
    depthwise, _ = sweep
    shapes = list(depthwise.shapes_of(gpu=True))
    assert len(shapes) == 228
    for batch in (64, 512):
        odd = {
            (shape["kernel"], shape["stride"], shape["dtype"])
            for shape in shapes
            if shape["batch"] == batch and shape["channels"] % 2
        }
        assert len(odd) == 12


def test_report_counts_slow_layouts_and_failures_by_type(sweep, tmp_path):
    depthwise, recording = sweep
    facts = recording.Facts(tmp_path / "facts.json")
    shape = {"batch": 64, "channels": 13, "kernel": 3, "stride": 1, "fine": True}
    times = {"bfloat16": (90.0, 10.0), "float32": (10.0, 41.0)}
    rows = [
        {**shape, "dtype": dtype, "channels_last us": last, "contiguous us": first, "ratio": last / first}
        for dtype, (last, first) in times.items()
    ]
    rows.append({**shape, "dtype": "float32", "channels": 5, "fine": False, "contiguous error": "no kernel"})

    depthwise.report(facts, rows)
    written = json.loads((tmp_path / "facts.json").read_text())
    assert written["pathological"] == [
        {"dtype": "bfloat16", "slow channels_last": 1, "slow contiguous": 0},
        {"dtype": "float32", "slow channels_last": 0, "slow contiguous": 1},
    ]
    assert len(written["notable"]) == 3
    assert [bar["met"] for bar in written["bars"]] == [False, False]
    assert facts.failed
