from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eatnas_db.domain.architecture import DEPTHS, KERNELS, OPS, SKIPS, WIDTHS, Architecture, Block
from eatnas_db.domain.change import Change
from eatnas_db.domain.macro import PRESETS, Macro, Task
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_training.inheritance.transfer import Inheritance, NetworkSpec, inherit_weights
from support.inheritance import (
    EVEN,
    EXACT,
    TASK,
    TINY,
    apply_changes,
    distance,
    images,
    inherit,
    initialized,
    logits,
    network_spec,
    one_step,
    trained,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDING = 1e-9

# Use fixed examples, which give the same result on every machine and in every run.
fixed = settings(derandomize=True, deadline=None, database=None, max_examples=60)

blocks = st.builds(
    Block,
    op=st.sampled_from(OPS),
    kernel=st.sampled_from(KERNELS),
    skip=st.sampled_from(SKIPS),
    depth=st.sampled_from(DEPTHS[:3]),
    width=st.sampled_from(WIDTHS),
)
macros = st.sampled_from([TINY, EVEN])
seeds = st.integers(0, 2**32)


NOT_EXACT = [
    ("mb3_k7_d2_w1.0_skip", "kernel", 3),
    ("sep_k5_d2_w1.0", "kernel", 3),
    ("mb3_k3_d3_w1.0_skip", "depth", 1),
    ("sep_k3_d1_w1.0_skip", "depth", 2),
    ("mb3_k3_d2_w1.0", "width", 0.5),
    ("sep_k3_d2_w1.0", "width", 0.5),
    ("mb6_k3_d2_w1.0", "op", "mb3"),
    ("mb3_k3_d2_w1.0", "skip", True),
    ("sep_k3_d2_w1.0", "skip", True),
    ("mb3_k3_d2_w1.0_skip", "skip", False),
    ("sep_k3_d2_w1.0_skip", "skip", False),
    ("sep_k3_d2_w1.0_skip", "width", 1.5),
]
SWAPPED = [("mb3_k3_d2_w1.0", "sep"), ("sep_k3_d2_w1.0_skip", "mb6")]


@pytest.mark.parametrize(("code", "primitive", "after"), EXACT)
@pytest.mark.parametrize("block", [1, 3, 4])
def test_adding_capacity_preserves_the_logits(code, primitive, after, block) -> None:
    parent = network_spec(code)
    child = apply_changes(parent, Change(block, primitive, "", after))
    old, new, inheritance = inherit(parent, child)
    assert inheritance.exact
    assert inheritance.reinitialized_blocks == ()
    assert 0.3 < inheritance.share < 1
    assert distance(logits(old, images()), logits(new, images())) < ROUNDING


@pytest.mark.parametrize(("code", "primitive", "after"), NOT_EXACT)
def test_other_changes_are_not_reported_as_exact(code, primitive, after) -> None:
    parent = network_spec(code)
    old, new, inheritance = inherit(parent, apply_changes(parent, Change(2, primitive, "", after)))
    assert not inheritance.exact
    assert inheritance.reinitialized_blocks == ()
    assert ROUNDING < distance(logits(old, images()), logits(new, images())) < 1e6


@pytest.mark.parametrize(("code", "after"), SWAPPED)
def test_block_with_another_layer_type_is_reinitialized(code, after) -> None:
    parent = network_spec(code)
    child = apply_changes(parent, Change(2, "op", "", after))
    old, new, inheritance = inherit(parent, child)
    assert (inheritance.exact, inheritance.reinitialized_blocks) == (False, (2,))
    initial = initialized(child, 2).state_dict()
    first = 3 + parent.architecture.blocks[0].depth
    layers = range(first, first + child.architecture.blocks[1].depth)
    for name, values in new.state_dict().items():
        if any(name.startswith(f"features.{layer}.") for layer in layers):
            assert torch.equal(values, initial[name])
    assert torch.equal(new.classifier.weight, old.classifier.weight)


@pytest.mark.slow
@fixed
@given(macros, st.lists(blocks, min_size=7, max_size=7), seeds)
def test_random_mutation_is_exact_only_if_logits_agree(macro, drawn, seed) -> None:
    parent = NetworkSpec(Architecture(tuple(drawn[: len(macro.base)])), macro, TASK)
    mutant = Space(macro, TASK).mutate(parent.architecture, KeyedRng(seed, "mutant"), lambda digest: False)
    old, new, inheritance = inherit(parent, NetworkSpec(mutant.architecture, macro, TASK), seed)
    before, after = logits(old, images()), logits(new, images())
    assume((before - before.mean(0)).abs().max() > 1e-6)
    assert 0 < inheritance.share <= 1
    assert bool(after.isfinite().all())
    if inheritance.exact:
        assert distance(before, after) < ROUNDING


@pytest.mark.slow
@fixed
@given(macros, st.lists(blocks, min_size=7, max_size=7), st.integers(2, 5), seeds)
def test_several_mutations_are_exact_only_if_logits_agree(macro, drawn, count, seed) -> None:
    parent = NetworkSpec(Architecture(tuple(drawn[: len(macro.base)])), macro, TASK)
    chance, mutant = KeyedRng(seed, "mutant"), parent.architecture
    for _ in range(count):
        mutant = Space(macro, TASK).mutate(mutant, chance, lambda digest: False).architecture
    old, new, inheritance = inherit(parent, NetworkSpec(mutant, macro, TASK), seed)
    before, after = logits(old, images()), logits(new, images())
    assume((before - before.mean(0)).abs().max() > 1e-6)
    assert bool(after.isfinite().all())
    if inheritance.exact:
        assert distance(before, after) < ROUNDING


@pytest.mark.slow
@fixed
@given(macros, st.lists(blocks, min_size=7, max_size=7), st.data())
def test_growing_several_blocks_is_exact(macro, drawn, data) -> None:
    blocks = [b.with_value("skip", b.skip and b.op != "sep") for b in drawn[: len(macro.base)]]
    grown = []
    for block in blocks:
        ops = ["sep"] if block.op == "sep" else OPS[OPS.index(block.op) :]
        kernels, depths = KERNELS[KERNELS.index(block.kernel) :], DEPTHS[DEPTHS.index(block.depth) :]
        op, kernel, depth = (data.draw(st.sampled_from(values)) for values in (ops, kernels, depths))
        # The width stays the same, because widening may turn a bypass into an identity, which is not exact.
        grown.append(Block(op, kernel, block.skip, depth, block.width))
    parent, child = (NetworkSpec(Architecture(tuple(chosen)), macro, TASK) for chosen in (blocks, grown))
    old, new, inheritance = inherit(parent, child)
    assert inheritance.exact
    before = logits(old, images())
    assume((before - before.mean(0)).abs().max() > 1e-6)
    assert distance(before, logits(new, images())) < ROUNDING


def test_new_bypass_preserves_the_logits() -> None:
    parent = network_spec("mb3_k3_d1_w1.0/mb3_k3_d1_w2.0/mb3_k3_d1_w1.0/mb3_k3_d1_w2.0")
    child = apply_changes(parent, Change(2, "skip", False, True))
    old, new, inheritance = inherit(parent, child)
    assert inheritance.exact
    assert distance(logits(old, images()), logits(new, images())) < ROUNDING


def test_bypass_that_replaces_an_identity_preserves_the_logits() -> None:
    parent = network_spec("mb3_k3_d1_w1.0_skip")
    child = apply_changes(parent, Change(2, "width", 1.0, 1.5))
    old, new, inheritance = inherit(parent, child)
    assert inheritance.exact
    assert inheritance.share < 1
    assert distance(logits(old, images()), logits(new, images())) < ROUNDING


def test_identity_that_replaces_a_bypass_is_not_exact() -> None:
    parent = network_spec("mb3_k3_d1_w1.0_skip/mb3_k3_d1_w0.5_skip/mb3_k3_d1_w1.0_skip/mb3_k3_d1_w1.0_skip")
    _, _, inheritance = inherit(parent, apply_changes(parent, Change(2, "width", 0.5, 1.0)))
    assert (inheritance.exact, inheritance.reinitialized_blocks) == (False, ())


def test_equal_network_inherits_everything() -> None:
    parent = network_spec("mb3_k3_d2_w1.0_skip", TINY)
    old, new, inheritance = inherit(parent, parent)
    assert inheritance == Inheritance(1.0, True, ())
    state = old.state_dict()
    counters = "num_batches_tracked"
    assert all(torch.equal(state[n], values) for n, values in new.state_dict().items() if not n.endswith(counters))


def test_padding_zeros_do_not_count_as_inherited() -> None:
    parent = network_spec("sep_k3_d1_w1.0", EVEN)
    child = apply_changes(parent, Change(1, "kernel", 3, 5))
    _, new, inheritance = inherit(parent, child)
    total = sum(parameter.numel() for parameter in new.parameters())
    assert inheritance.share == (total - 8 * (25 - 9)) / total


def test_deeper_separable_block_with_skip_is_nearly_exact() -> None:
    parent = network_spec("sep_k3_d1_w1.0_skip")
    old, new, _ = inherit(parent, apply_changes(parent, Change(2, "depth", 1, 2)))
    assert 0 < distance(logits(old, images()), logits(new, images())) < 0.1


def test_narrowing_keeps_the_most_important_channels() -> None:
    parent = network_spec("mb3_k3_d1_w1.0")
    old = trained(parent, 0)
    child = apply_changes(parent, Change(2, "width", 1.0, 0.5))
    important = [1, 3, 4, 6]
    with torch.no_grad():
        # The next block ignores the channels whose weights are set to 0.
        old.features[5][0].weight[:, [0, 2, 5, 7]] = 0
        old.features[5][0].weight[:, important] += 1
    new = initialized(child, 2)
    inherit_weights(old.state_dict(), parent, new, child)
    assert torch.equal(new.features[4][7].bias, old.features[4][7].bias[important])
    assert torch.equal(new.features[4][7].running_var, old.features[4][7].running_var[important])


def test_identity_keeps_the_same_channels_at_both_ends() -> None:
    parent = network_spec("mb3_k3_d2_w1.0_skip")
    child = apply_changes(parent, *(Change(block, "width", 1.0, 0.5) for block in (1, 2, 3, 4)))
    old = trained(parent, 0)
    new = initialized(child, 2)
    inherit_weights(old.state_dict(), parent, new, child)
    kept = [
        [int((old.features[layer].body[7].bias == value).nonzero()) for value in new.features[layer].body[7].bias]
        for layer in range(3, 7)
    ]
    assert kept[0] == kept[1] == kept[2] == kept[3]


def test_inheritance_is_deterministic_and_draws_no_random_numbers() -> None:
    parent = network_spec("mb3_k3_d1_w1.0_skip")
    child = apply_changes(parent, Change(2, "width", 1.0, 2.0), Change(3, "op", "mb3", "sep"), Change(4, "depth", 1, 2))
    before = torch.get_rng_state()
    states = [inherit(parent, child)[1].state_dict() for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_training_the_child_leaves_the_parent_unchanged() -> None:
    parent = network_spec("mb3_k3_d1_w1.0_skip")
    old, new, _ = inherit(parent, parent)
    before = {name: values.clone() for name, values in old.state_dict().items()}
    one_step(new, images(count=8), torch.arange(8))
    assert all(torch.equal(before[name], values) for name, values in old.state_dict().items())


def test_child_of_another_task_reinitializes_stem_and_classifier() -> None:
    parent = network_spec("mb3_k3_d2_w1.0_skip", TINY)
    child = network_spec("mb3_k3_d2_w1.0_skip", TINY, Task(28, 3, 5))
    old, new, inheritance = inherit(parent, child)
    initial = initialized(child, 2).state_dict()
    reinitialized = [name for name, values in new.state_dict().items() if torch.equal(values, initial[name])]
    assert {name for name in reinitialized if "num_batches" not in name} == {
        *(f"features.0.{name}" for name in ("weight",)),
        *(f"features.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        *(f"classifier.{name}" for name in ("weight", "bias")),
    }
    assert torch.equal(new.features[3].body[0].weight, old.features[3].body[0].weight)
    assert not inheritance.exact
    assert inheritance.share > 0.9


def test_wider_macro_of_the_same_strides_is_exact() -> None:
    wider = Macro("wider", 12, 1, EVEN.strides, (16, 16, 16, 16), 32)
    code = "mb3_k3_d2_w1.0/sep_k3_d2_w1.0/mb6_k3_d1_w1.0_skip/mb3_k5_d1_w1.0"
    old, new, inheritance = inherit(network_spec(code), network_spec(code, wider))
    assert inheritance.exact
    assert distance(logits(old, images()), logits(new, images())) < ROUNDING


@pytest.mark.slow
def test_other_strides_or_fewer_channels_inherit_a_part() -> None:
    code = "mb3_k3_d2_w1.0_skip"
    for macro in (PRESETS["eatnas-cifar"], PRESETS["eatnas-small"]):
        for parent, child in ((TINY, macro), (macro, TINY)):
            _, new, inheritance = inherit(network_spec(code, parent), network_spec(code, child, Task(32, 3, 10)))
            assert not inheritance.exact
            assert 0.01 < inheritance.share < 1
            assert bool(logits(new, images(Task(32, 3, 10))).isfinite().all())


def test_state_of_another_network_is_refused() -> None:
    parent, other = network_spec("mb3_k3_d1_w1.0_skip"), network_spec("mb6_k3_d1_w1.0_skip")
    with pytest.raises(RuntimeError, match="size mismatch"):
        inherit_weights(trained(other, 0).state_dict(), parent, initialized(parent, 1), parent)


def test_parent_with_another_number_of_blocks_is_refused() -> None:
    parent, child = network_spec("mb3_k3_d1_w1.0_skip"), network_spec("mb3_k3_d1_w1.0_skip", TINY)
    with pytest.raises(ValueError, match="argument"):
        inherit(parent, child)
