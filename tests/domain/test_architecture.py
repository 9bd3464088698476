import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eatnas_db.domain.architecture import Architecture, architecture_digest
from eatnas_db.errors import InvalidArchitectureError

GOOD = [2, 0, 1, 3, 1.0]
architectures = st.from_type(Architecture)


@given(architectures)
def test_the_authors_form_round_trips_through_json(architecture):
    assert Architecture.from_code(json.loads(json.dumps(architecture.to_code()))) == architecture


@given(architectures)
def test_the_readable_form_round_trips(architecture):
    assert Architecture.parse(str(architecture)) == architecture


def test_both_forms_say_the_same():
    code = [[2, 0, 1, 3, 1.0], [0, 1, 0, 0, 0.5]]
    assert str(Architecture.from_code(code)) == "mb6_k3_d4_w1.0_skip/sep_k5_d1_w0.5"


def test_a_whole_width_factor_may_be_written_as_an_integer():
    assert Architecture.from_code([[2, 0, 1, 3, 1]]) == Architecture.from_code([GOOD])


@pytest.mark.parametrize(
    ("position", "value", "primitive"),
    [
        (0, 3, "op"),
        (0, -1, "op"),
        (0, "mb6", "op"),
        (0, True, "op"),
        (1, 5, "kernel"),
        (2, 2, "skip"),
        (3, 4, "depth"),
        (3, 1.0, "depth"),
        (3, None, "depth"),
        (4, 0.75, "width"),
        (4, "1.0", "width"),
        (4, True, "width"),
        (4, float("nan"), "width"),
    ],
)
def test_a_bad_code_names_the_block_the_primitive_and_the_value(position, value, primitive):
    row = [*GOOD[:position], value, *GOOD[position + 1 :]]
    with pytest.raises(InvalidArchitectureError, match=f"^block 2: {primitive} ") as caught:
        Architecture.from_code([GOOD, row, GOOD])
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("row", [[], GOOD[:4], [*GOOD, 0], "20131", None, 7, {"op": 2}])
def test_a_row_that_is_no_block_is_named(row):
    with pytest.raises(InvalidArchitectureError, match=r"^block 1: expected") as caught:
        Architecture.from_code([row])
    assert repr(row) in str(caught.value)


@pytest.mark.parametrize("code", [None, 3, "mb6", {"blocks": []}, []])
def test_what_is_no_list_of_blocks_is_refused(code):
    with pytest.raises(InvalidArchitectureError):
        Architecture.from_code(code)


@pytest.mark.parametrize(
    "part",
    ["", "mb6", "mb4_k3_d1_w1.0", "mb6_k9_d1_w1.0", "mb6_k3_d0_w1.0", "mb6_k3_d1_w0.7", "mb6_k3_d1_w1.0_"],
)
def test_a_bad_readable_code_names_the_block(part):
    with pytest.raises(InvalidArchitectureError, match=r"^block 2: "):
        Architecture.parse(f"sep_k3_d1_w0.5/{part}/sep_k3_d1_w0.5")


@given(architectures, architectures)
def test_a_digest_is_32_hexadecimal_digits_and_tells_architectures_apart(one, other):
    assert len(architecture_digest(one)) == 32
    assert int(architecture_digest(one), 16) >= 0
    assert (architecture_digest(one) == architecture_digest(other)) == (one == other)


def test_the_digest_stays_what_it_is():
    assert architecture_digest(Architecture.from_code([GOOD] * 7)) == "f95097e59762d239bf880f6329e96f86"
