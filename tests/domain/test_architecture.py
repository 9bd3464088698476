import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eatnas_db.domain.architecture import Architecture, architecture_digest
from eatnas_db.errors import InvalidArchitectureError

VALID_BLOCK = [2, 0, 1, 3, 1.0]
architectures = st.from_type(Architecture)


@pytest.mark.slow
@given(architectures)
def test_authors_notation_round_trips_through_json(architecture):
    assert Architecture.from_code(json.loads(json.dumps(architecture.to_code()))) == architecture


@given(architectures)
def test_readable_notation_round_trips(architecture):
    assert Architecture.parse(str(architecture)) == architecture


def test_notations_describe_the_same_architecture():
    code = [[2, 0, 1, 3, 1.0], [0, 1, 0, 0, 0.5]]
    assert str(Architecture.from_code(code)) == "mb6_k3_d4_w1.0_skip/sep_k5_d1_w0.5"


def test_width_may_be_an_integer():
    assert Architecture.from_code([[2, 0, 1, 3, 1]]) == Architecture.from_code([VALID_BLOCK])


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
def test_invalid_code_error_names_block_primitive_and_value(position, value, primitive):
    row = [*VALID_BLOCK[:position], value, *VALID_BLOCK[position + 1 :]]
    with pytest.raises(InvalidArchitectureError, match=f"^block 2: {primitive} ") as raised:
        Architecture.from_code([VALID_BLOCK, row, VALID_BLOCK])
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize("row", [[], VALID_BLOCK[:4], [*VALID_BLOCK, 0], "20131", None, 7, {"op": 2}])
def test_malformed_block_error_shows_the_block(row):
    with pytest.raises(InvalidArchitectureError, match=r"^block 1: expected") as raised:
        Architecture.from_code([row])
    assert repr(row) in str(raised.value)


@pytest.mark.parametrize("code", [None, 3, "mb6", {"blocks": []}, []])
def test_code_must_be_a_list_of_blocks(code):
    with pytest.raises(InvalidArchitectureError):
        Architecture.from_code(code)


@pytest.mark.parametrize(
    "part",
    ["", "mb6", "mb4_k3_d1_w1.0", "mb6_k9_d1_w1.0", "mb6_k3_d0_w1.0", "mb6_k3_d1_w0.7", "mb6_k3_d1_w1.0_"],
)
def test_invalid_readable_code_error_names_the_block(part):
    with pytest.raises(InvalidArchitectureError, match=r"^block 2: "):
        Architecture.parse(f"sep_k3_d1_w0.5/{part}/sep_k3_d1_w0.5")


@given(architectures, architectures)
def test_digests_differ_exactly_when_architectures_differ(first, second):
    assert len(architecture_digest(first)) == 32
    assert int(architecture_digest(first), 16) >= 0
    assert (architecture_digest(first) == architecture_digest(second)) == (first == second)


def test_digest_is_pinned():
    assert architecture_digest(Architecture.from_code([VALID_BLOCK] * 7)) == "f95097e59762d239bf880f6329e96f86"
