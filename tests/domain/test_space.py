import pytest
from hypothesis import given
from hypothesis import strategies as st

from eatnas_db.domain.architecture import PRIMITIVES, Architecture, Block, architecture_digest
from eatnas_db.domain.cost import compute_cost
from eatnas_db.domain.macro import PRESETS, Macro, Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space, apply_change, list_changes
from eatnas_db.errors import SpaceExhaustedError

TASK = Task(28, 1, 10)
SPACES = [Space(macro, TASK) for macro in PRESETS.values()]
TINY = Space(PRESETS["eatnas-tiny"], TASK)
ONE_BLOCK = Space(Macro("one-block", 4, 1, (1,), (8,), 8), TASK)

architectures = st.from_type(Architecture)
spaces = st.sampled_from(SPACES)
seeds = st.integers(0, 2**63 - 1)


def nothing_held(digest: str) -> bool:
    return False


def limited(space: Space, factor: float) -> Space:
    least = space.smallest().cost
    return Space(space.macro, space.task, Limits(int(least.params * factor), int(least.mult_adds * factor)))


@given(spaces, architectures)
def test_effective_is_idempotent_and_costs_the_same(space, architecture):
    effective = space.effective(architecture)
    assert space.effective(effective) == effective
    assert compute_cost(effective, space.macro, TASK) == compute_cost(architecture, space.macro, TASK)


@given(spaces, architectures, architectures)
def test_digests_are_equal_just_where_the_effective_genotypes_are(space, one, other):
    same = space.effective(one) == space.effective(other)
    assert (space.propose(one).digest == space.propose(other).digest) == same


@given(spaces, architectures, st.integers(0, 6))
def test_a_skip_is_cleared_just_where_no_layer_can_use_it(space, architecture, position):
    block = architecture.blocks[position].with_value("skip", True)
    given_code = architecture.with_block(position, block)
    macro = space.macro
    inputs = (
        macro.stem_channels
        if position == 0
        else macro.block_channels(position - 1, given_code.blocks[position - 1].width)
    )
    fits = macro.strides[position] == 1 and inputs == macro.block_channels(position, block.width)
    usable = block.op != "sep" or block.depth > 1 or fits
    assert space.effective(given_code).blocks[position].skip == usable


@given(spaces, architectures)
def test_no_smaller_width_would_give_the_channels_of_an_effective_genotype(space, architecture):
    effective = space.effective(architecture)
    for position, (block, given_block) in enumerate(zip(effective, architecture, strict=True)):
        channels = space.macro.block_channels(position, block.width)
        assert channels == space.macro.block_channels(position, given_block.width)
        smaller = [width for width in PRIMITIVES["width"] if width < block.width]
        assert all(space.macro.block_channels(position, width) != channels for width in smaller)


def test_widths_with_equal_channels_are_one_network():
    # 16 channels of base at a quarter: 0.5 would be 2 and is lifted to 4, as 1.0 is.
    narrow, plain = (Architecture.parse("/".join([f"mb3_k3_d1_w{w}"] * 7)) for w in (0.5, 1.0))
    assert TINY.effective(plain).blocks[0].width == 0.5
    assert TINY.propose(narrow.with_block(0, plain.blocks[0])).digest == TINY.propose(narrow).digest


@given(architectures)
def test_the_authors_macro_leaves_every_width_as_it_is(architecture):
    effective = Space(PRESETS["eatnas-imagenet"], TASK).effective(architecture)
    assert [block.width for block in effective] == [block.width for block in architecture]


@given(spaces, architectures)
def test_nothing_is_cheaper_than_the_smallest(space, architecture):
    least, other = space.smallest().cost, space.propose(architecture).cost
    assert least.params <= other.params
    assert least.mult_adds <= other.mult_adds


@given(spaces, seeds, st.sampled_from([1.0, 1.02, 1.3, 3.0, 1e6]))
def test_sampling_keeps_to_the_limits_however_tight(space, seed, factor):
    space = limited(space, factor)
    proposal = space.sample(KeyedRng(seed, "sample"), nothing_held)
    assert space.limits.allow(proposal.cost)
    assert proposal == space.propose(proposal.architecture)
    assert proposal == space.sample(KeyedRng(seed, "sample"), nothing_held)


@given(spaces, seeds, architectures, st.sampled_from([1.02, 1.3, 3.0, 1e6]))
def test_mutation_keeps_to_the_limits_however_tight(space, seed, architecture, factor):
    space = limited(space, factor)
    parent = space.sample(KeyedRng(seed, "parent"), nothing_held).architecture
    proposal = space.mutate(parent, KeyedRng(seed, "mutation"), nothing_held)
    assert space.limits.allow(proposal.cost)


@given(spaces, seeds, architectures)
def test_mutation_changes_one_primitive_and_says_which(space, seed, parent):
    proposal = space.mutate(parent, KeyedRng(seed, "mutation"), nothing_held)
    assert len(proposal.changes) == 1
    assert list_changes(parent, proposal.architecture) == proposal.changes
    assert apply_change(parent, proposal.changes[0]) == proposal.architecture
    assert proposal.digest == architecture_digest(space.effective(proposal.architecture))


def drawn_until_no_room(draw, held: set[str]) -> None:
    for number in range(10_000):
        try:
            proposal = draw(number)
        except SpaceExhaustedError:
            return
        assert proposal.digest not in held
        held.add(proposal.digest)
    raise AssertionError("there is room without end")


def test_sampling_never_repeats_a_held_digest_until_the_space_is_empty():
    held: set[str] = set()
    drawn_until_no_room(lambda n: ONE_BLOCK.sample(KeyedRng(0, "sample", n), held.__contains__), held)
    every = [
        Block(o, k, s, d, w)
        for o in PRIMITIVES["op"]
        for k in PRIMITIVES["kernel"]
        for s in PRIMITIVES["skip"]
        for d in PRIMITIVES["depth"]
        for w in PRIMITIVES["width"]
    ]
    assert len(every) == ONE_BLOCK.code_count
    networks = {ONE_BLOCK.propose(Architecture((block,))).digest for block in every}
    assert held <= networks
    assert len(held) >= 0.98 * len(networks)


@given(seeds, architectures)
def test_mutation_never_repeats_a_held_digest_until_the_neighbourhood_is_empty(seed, parent):
    held = {TINY.propose(parent).digest}
    drawn_until_no_room(lambda n: TINY.mutate(parent, KeyedRng(seed, "mutation", n), held.__contains__), held)
    with pytest.raises(SpaceExhaustedError, match="every neighbour of"):
        TINY.mutate(parent, KeyedRng(seed, "mutation"), held.__contains__)


@pytest.mark.parametrize("name", ["max_params", "max_mult_adds"])
@pytest.mark.parametrize("macro", PRESETS.values(), ids=PRESETS)
def test_limits_below_the_smallest_network_leave_no_room(macro, name):
    least = Space(macro, TASK).smallest().cost
    bound = least.params if name == "max_params" else least.mult_adds
    Space(macro, TASK, Limits(**{name: bound})).require_feasible()
    tight = Space(macro, TASK, Limits(**{name: bound - 1}))
    with pytest.raises(SpaceExhaustedError, match=rf"objective\.{name} is {bound - 1:,}.* has {bound:,}"):
        tight.require_feasible()


def test_a_sample_is_given_up_where_nothing_fits():
    with pytest.raises(SpaceExhaustedError, match="no new architecture within the limits"):
        Space(TINY.macro, TASK, Limits(max_params=1)).sample(KeyedRng(0, "sample"), nothing_held)


@given(architectures, architectures)
def test_the_differences_of_two_architectures_lead_from_one_to_the_other(one, other):
    walked = one
    for change in list_changes(one, other):
        walked = apply_change(walked, change)
    assert walked == other


def test_a_change_reads_like_a_sentence():
    one, other = (Architecture.parse(f"mb3_k3_d1_w1.0{skip}") for skip in ("", "_skip"))
    assert [str(change) for change in list_changes(one, other)] == ["block 1 skip no → yes"]


def test_the_size_of_the_authors_space():
    space = Space(PRESETS["eatnas-imagenet"], TASK)
    assert space.code_count == 288**7
    assert space.neighbour_count == 7 * (2 + 2 + 1 + 3 + 3)
