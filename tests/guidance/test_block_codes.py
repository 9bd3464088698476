"""The conversion between architectures and codes."""

import pytest

from eatnas_db.domain.macro import PRESETS, Macro, Task
from eatnas_db.domain.operators import BUILT_IN_OPERATORS
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.guidance.block_codes import BlockCodes
from eatnas_db.scored_births import encode_architecture


@pytest.fixture(params=sorted(PRESETS))
def space(request):
    return Space(PRESETS[request.param], Task(32, 3, 10))


def test_code_of_an_architecture_is_that_of_its_effective_form(space):
    codes = BlockCodes(space)
    for number in range(50):
        proposal = space.sample(KeyedRng(number, "sample"), lambda digest: False)
        code = codes.encode(proposal.architecture)
        assert codes.decode(code) == proposal.effective
        assert codes.encode(proposal.effective) == code


def test_neighbours_differ_in_one_primitive(space):
    codes = BlockCodes(space)
    code = codes.sample(KeyedRng(1, "sample"))
    neighbours = codes.neighbours(code)
    assert len(set(neighbours)) == len(neighbours) == space.neighbour_count
    for neighbour in neighbours:
        assert sum(old != new for old, new in zip(code, neighbour, strict=True)) == 1
        codes.decode(neighbour)


def test_mutants_differ_in_the_requested_number_of_primitives(space):
    codes, rng = BlockCodes(space), KeyedRng(2, "mutants")
    code = codes.sample(rng)
    for count in (1, 2, 3):
        mutant = codes.mutate(code, count, rng)
        assert sum(old != new for old, new in zip(code, mutant, strict=True)) == count
        codes.decode(mutant)


def test_mutants_keep_primitives_with_one_value():
    codes = BlockCodes(Space(Macro("own", 8, 1, (1,), (16,), 16, operators=BUILT_IN_OPERATORS[:1]), Task(8, 1, 10)))
    mutants = [codes.mutate((0, 0, 0, 0, 0), 9, KeyedRng(number, "mutants")) for number in range(10)]
    assert all(mutant[0] == 0 and 0 not in mutant[1:] for mutant in mutants)


def test_order_of_a_spaces_operators_decides_codes():
    def encode(operators):
        macro = Macro("own", 8, 1, (1,), (16,), 16, operators=operators)
        return encode_architecture(Space(macro, Task(8, 1, 10)), "sep_k3_d1_w1.0")[0]

    sep, mb3, _ = BUILT_IN_OPERATORS
    assert [encode((sep, mb3)), encode((mb3, sep))] == [0, 1]
