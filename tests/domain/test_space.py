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


def is_never_held(digest: str) -> bool:
    return False


def limited(space: Space, factor: float) -> Space:
    smallest = space.smallest().cost
    return Space(space.macro, space.task, Limits(int(smallest.params * factor), int(smallest.mult_adds * factor)))


@given(spaces, architectures)
def test_effective_form_is_idempotent_and_keeps_the_cost(space, architecture):
    effective = space.effective(architecture)
    assert space.effective(effective) == effective
    assert compute_cost(effective, space.macro, TASK) == compute_cost(architecture, space.macro, TASK)


@given(spaces, architectures, architectures)
def test_digests_are_equal_exactly_for_equal_effective_forms(space, first, second):
    same = space.effective(first) == space.effective(second)
    assert (space.propose(first).digest == space.propose(second).digest) == same


@given(spaces, architectures, st.integers(0, 6))
def test_skip_is_cleared_exactly_if_unusable(space, architecture, position):
    block = architecture.blocks[position].with_value("skip", True)
    original = architecture.with_block(position, block)
    macro = space.macro
    inputs = (
        macro.stem_channels
        if position == 0
        else macro.block_channels(position - 1, original.blocks[position - 1].width)
    )
    fits = macro.strides[position] == 1 and inputs == macro.block_channels(position, block.width)
    usable = block.op != "sep" or block.depth > 1 or fits
    assert space.effective(original).blocks[position].skip == usable


@given(spaces, architectures)
def test_effective_width_is_the_smallest_with_its_channels(space, architecture):
    effective = space.effective(architecture)
    for position, (block, original_block) in enumerate(zip(effective, architecture, strict=True)):
        channels = space.macro.block_channels(position, block.width)
        assert channels == space.macro.block_channels(position, original_block.width)
        smaller = [width for width in PRIMITIVES["width"] if width < block.width]
        assert all(space.macro.block_channels(position, width) != channels for width in smaller)


def test_widths_with_equal_channels_build_one_network():
    # With 16 base channels and multiplier 0.25, widths 0.5 and 1.0 both give the minimum of 4 channels.
    narrow, plain = (Architecture.parse("/".join([f"mb3_k3_d1_w{w}"] * 7)) for w in (0.5, 1.0))
    assert TINY.effective(plain).blocks[0].width == 0.5
    assert TINY.propose(narrow.with_block(0, plain.blocks[0])).digest == TINY.propose(narrow).digest


@given(architectures)
def test_authors_macro_keeps_every_width(architecture):
    effective = Space(PRESETS["eatnas-imagenet"], TASK).effective(architecture)
    assert [block.width for block in effective] == [block.width for block in architecture]


@given(spaces, architectures)
def test_smallest_network_is_the_cheapest(space, architecture):
    smallest, cost = space.smallest().cost, space.propose(architecture).cost
    assert smallest.params <= cost.params
    assert smallest.mult_adds <= cost.mult_adds


@pytest.mark.slow
@given(spaces, seeds, st.sampled_from([1.0, 1.02, 1.3, 3.0, 1e6]))
def test_samples_respect_tight_limits(space, seed, factor):
    space = limited(space, factor)
    proposal = space.sample(KeyedRng(seed, "sample"), is_never_held)
    assert space.limits.allow(proposal.cost)
    assert proposal == space.propose(proposal.architecture)
    assert proposal == space.sample(KeyedRng(seed, "sample"), is_never_held)


@pytest.mark.slow
@given(spaces, seeds, architectures, st.sampled_from([1.02, 1.3, 3.0, 1e6]))
def test_mutations_respect_tight_limits(space, seed, architecture, factor):
    space = limited(space, factor)
    parent = space.sample(KeyedRng(seed, "parent"), is_never_held).architecture
    proposal = space.mutate(parent, KeyedRng(seed, "mutation"), is_never_held)
    assert space.limits.allow(proposal.cost)


@given(spaces, seeds, architectures)
def test_mutation_reports_its_single_change(space, seed, parent):
    proposal = space.mutate(parent, KeyedRng(seed, "mutation"), is_never_held)
    assert len(proposal.changes) == 1
    assert list_changes(parent, proposal.architecture) == proposal.changes
    assert apply_change(parent, proposal.changes[0]) == proposal.architecture
    assert proposal.digest == architecture_digest(space.effective(proposal.architecture))


def draw_until_exhausted(draw, held: set[str]) -> None:
    for number in range(10_000):
        try:
            proposal = draw(number)
        except SpaceExhaustedError:
            return
        assert proposal.digest not in held
        held.add(proposal.digest)
    raise AssertionError("the space is never exhausted")


def test_sampling_never_repeats_until_the_space_is_exhausted():
    held: set[str] = set()
    draw_until_exhausted(lambda n: ONE_BLOCK.sample(KeyedRng(0, "sample", n), held.__contains__), held)
    blocks = [
        Block(o, k, s, d, w)
        for o in PRIMITIVES["op"]
        for k in PRIMITIVES["kernel"]
        for s in PRIMITIVES["skip"]
        for d in PRIMITIVES["depth"]
        for w in PRIMITIVES["width"]
    ]
    assert len(blocks) == ONE_BLOCK.code_count
    networks = {ONE_BLOCK.propose(Architecture((block,))).digest for block in blocks}
    assert held <= networks
    assert len(held) >= 0.98 * len(networks)


@pytest.mark.slow
@given(seeds, architectures)
def test_mutation_never_repeats_until_all_neighbours_are_held(seed, parent):
    held = {TINY.propose(parent).digest}
    draw_until_exhausted(lambda n: TINY.mutate(parent, KeyedRng(seed, "mutation", n), held.__contains__), held)
    with pytest.raises(SpaceExhaustedError, match="every neighbour of"):
        TINY.mutate(parent, KeyedRng(seed, "mutation"), held.__contains__)


@pytest.mark.parametrize("name", ["max_params", "max_mult_adds"])
@pytest.mark.parametrize("macro", PRESETS.values(), ids=PRESETS)
def test_limits_below_the_smallest_network_are_refused(macro, name):
    smallest = Space(macro, TASK).smallest().cost
    bound = smallest.params if name == "max_params" else smallest.mult_adds
    Space(macro, TASK, Limits(**{name: bound})).require_feasible()
    tight = Space(macro, TASK, Limits(**{name: bound - 1}))
    with pytest.raises(SpaceExhaustedError, match=rf"objective\.{name} is {bound - 1:,}.* has {bound:,}"):
        tight.require_feasible()


@pytest.mark.slow
def test_sampling_fails_when_nothing_fits():
    with pytest.raises(SpaceExhaustedError, match="no new architecture within the limits"):
        Space(TINY.macro, TASK, Limits(max_params=1)).sample(KeyedRng(0, "sample"), is_never_held)


@given(architectures, architectures)
def test_listed_changes_transform_one_architecture_into_another(first, second):
    architecture = first
    for change in list_changes(first, second):
        architecture = apply_change(architecture, change)
    assert architecture == second


def test_change_is_readable():
    first, second = (Architecture.parse(f"mb3_k3_d1_w1.0{skip}") for skip in ("", "_skip"))
    assert [str(change) for change in list_changes(first, second)] == ["block 1 skip no → yes"]


def test_size_of_the_authors_space():
    space = Space(PRESETS["eatnas-imagenet"], TASK)
    assert space.code_count == 288**7
    assert space.neighbour_count == 7 * (2 + 2 + 1 + 3 + 3)
