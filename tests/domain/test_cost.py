import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.cost import Cost, compute_cost
from eatnas_db.domain.macro import PRESETS, Macro, Task
from eatnas_db.errors import InvalidArchitectureError

ROWS = json.loads((Path(__file__).parents[1] / "data" / "oracle-sample.json").read_text())


def test_sample_file_is_complete():
    assert len(ROWS) == 24


@pytest.mark.parametrize("row", ROWS)
def test_costs_equal_those_of_the_authors(row):
    task = Task(row["resolution"], 3, row["classes"])
    cost = compute_cost(Architecture.from_code(row["code"]), PRESETS["eatnas-imagenet"], task)
    assert cost == Cost(row["params"], row["mult_adds"])


def test_costs_of_a_manually_counted_network():
    macro = Macro("manual", 4, 1, (2,), (8,), 16)
    cost = compute_cost(Architecture.parse("sep_k3_d1_w1.0"), macro, Task(8, 1, 10))
    stem, depthwise, pointwise, head, classifier = 9 * 4, 9 * 4, 4 * 8, 8 * 16, 16 * 10
    assert cost.params == (
        (stem + 2 * 4) + (depthwise + 2 * 4) + (pointwise + 2 * 8) + (head + 2 * 16) + (classifier + 10)
    )
    assert cost.mult_adds == stem * 64 + (depthwise + pointwise + head) * 16 + classifier


def test_wrong_number_of_blocks_is_refused():
    with pytest.raises(InvalidArchitectureError, match=r"blocks is 7 in space .* and 1 in the architecture"):
        compute_cost(Architecture.parse("sep_k3_d1_w1.0"), PRESETS["eatnas-tiny"], Task(8, 1, 10))


@given(st.from_type(Architecture))
def test_parameters_do_not_depend_on_the_resolution(architecture):
    macro = PRESETS["eatnas-cifar"]
    small, large = (compute_cost(architecture, macro, Task(side, 3, 10)) for side in (32, 64))
    assert small.params == large.params
    assert small.mult_adds < large.mult_adds
