from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eatnas_db.domain.architecture import DEPTHS, KERNELS, OPS, SKIPS, WIDTHS, Architecture, Block
from eatnas_db.domain.macro import PRESETS, Macro, Task
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Change, Space, apply_change
from eatnas_training import network
from eatnas_training.inheritance.transfer import Inheritance, NetworkSpec, inherit_weights

TASK = Task(8, 1, 10)
TINY = PRESETS["eatnas-tiny"]
EVEN = Macro("even", 8, 1, (1, 1, 2, 1), (8, 8, 8, 8), 24)
"""Blocks of equal widths, so that identities, bypasses and bare layers turn into one another."""
ROUNDING = 1e-9

# Fixed examples: the suite says the same on every machine and never fails by luck.
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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plan(code: str, macro: Macro = EVEN, task: Task = TASK) -> NetworkSpec:
    """A block's code for every block of the macro, or the codes of all."""
    given = code.split("/")
    return NetworkSpec(Architecture.parse("/".join(given if len(given) > 1 else given * len(macro.base))), macro, task)


def changed(parent: NetworkSpec, *changes: Change) -> NetworkSpec:
    architecture = parent.architecture
    for change in changes:
        architecture = apply_change(architecture, change)
    return NetworkSpec(architecture, parent.macro, parent.task)


def fresh(of: NetworkSpec, seed: int) -> network.Network:
    """Initialised, in double precision, so that a difference is either rounding or none."""
    model = network.build(of.architecture, of.macro, of.task)
    network.initialize(model, seed)
    return model.double()


def trained(of: NetworkSpec, seed: int) -> network.Network:
    """As if it had a training behind it: gammas and betas of their own, and statistics that fit the weights."""
    model = fresh(of, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_(1, 0.3, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
                module.momentum = 0.9
        model.classifier.weight.normal_(generator=generator)
        model.classifier.bias.normal_(generator=generator)
        model.train()(images(of.task, count=8, seed=seed))
    return model


def images(task: Task = TASK, count: int = 4, seed: int = 0) -> Tensor:
    shape = (count, task.channels, task.resolution, task.resolution)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.eval()(inputs)
    return found


def distance(one: Tensor, other: Tensor) -> float:
    """The largest difference of two sets of logits, over how much the first differs between images."""
    return float((one - other).abs().max() / (one - one.mean(0)).abs().max())


def born(
    parent: NetworkSpec, child: NetworkSpec, seed: int = 0
) -> tuple[network.Network, network.Network, Inheritance]:
    old, new = trained(parent, seed), fresh(child, seed + 2)
    return old, new, inherit_weights(old.state_dict(), parent, new, child)


def one_step(model: nn.Module, inputs: Tensor, labels: Tensor, rate: float = 0.05) -> float:
    """A step of plain gradient descent in training mode; the loss before it."""
    loss = cross_entropy(model.train()(inputs), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter -= rate * gradient
    return float(loss.detach())


EXACT = [
    ("mb3_k3_d2_w1.0_skip", "kernel", 7),
    ("mb6_k3_d2_w1.0", "kernel", 5),
    ("sep_k5_d2_w1.0_skip", "kernel", 7),
    ("sep_k3_d1_w1.0", "kernel", 7),
    ("mb3_k3_d1_w1.0_skip", "depth", 4),
    ("mb3_k5_d1_w1.0", "depth", 3),
    ("mb6_k3_d2_w0.5", "depth", 4),
    ("sep_k3_d1_w1.0", "depth", 4),
    ("mb3_k3_d2_w1.0", "width", 2.0),
    ("mb3_k3_d2_w1.0_skip", "width", 1.5),
    ("mb6_k5_d1_w0.5_skip", "width", 2.0),
    ("sep_k3_d2_w1.0", "width", 2.0),
    ("mb3_k3_d2_w1.0", "op", "mb6"),
    ("mb3_k7_d2_w1.0_skip", "op", "mb6"),
]
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
def test_a_change_that_only_adds_leaves_the_logits_as_they_are(code, primitive, after, block) -> None:
    parent = plan(code)
    child = changed(parent, Change(block, primitive, "", after))
    old, new, inheritance = born(parent, child)
    assert inheritance.exact
    assert inheritance.reinitialized_blocks == ()
    assert 0.3 < inheritance.share < 1
    assert distance(logits(old, images()), logits(new, images())) < ROUNDING


@pytest.mark.parametrize(("code", "primitive", "after"), NOT_EXACT)
def test_a_change_that_cannot_be_exact_does_not_say_it_is(code, primitive, after) -> None:
    parent = plan(code)
    old, new, inheritance = born(parent, changed(parent, Change(2, primitive, "", after)))
    assert not inheritance.exact
    assert inheritance.reinitialized_blocks == ()
    assert ROUNDING < distance(logits(old, images()), logits(new, images())) < 1e6


@pytest.mark.parametrize(("code", "after"), SWAPPED)
def test_a_block_of_the_other_kind_of_layer_starts_afresh(code, after) -> None:
    parent = plan(code)
    child = changed(parent, Change(2, "op", "", after))
    old, new, inheritance = born(parent, child)
    assert (inheritance.exact, inheritance.reinitialized_blocks) == (False, (2,))
    untouched = fresh(child, 2).state_dict()
    first = 3 + parent.architecture.blocks[0].depth
    layers = range(first, first + child.architecture.blocks[1].depth)
    for name, values in new.state_dict().items():
        if any(name.startswith(f"features.{layer}.") for layer in layers):
            assert torch.equal(values, untouched[name])
    assert torch.equal(new.classifier.weight, old.classifier.weight)


@pytest.mark.slow
@fixed
@given(macros, st.lists(blocks, min_size=7, max_size=7), seeds)
def test_exact_is_said_of_a_random_mutation_only_where_it_is_true(macro, drawn, seed) -> None:
    parent = NetworkSpec(Architecture(tuple(drawn[: len(macro.base)])), macro, TASK)
    mutant = Space(macro, TASK).mutate(parent.architecture, KeyedRng(seed, "mutant"), lambda digest: False)
    old, new, inheritance = born(parent, NetworkSpec(mutant.architecture, macro, TASK), seed)
    before, after = logits(old, images()), logits(new, images())
    assume((before - before.mean(0)).abs().max() > 1e-6)
    assert 0 < inheritance.share <= 1
    assert bool(after.isfinite().all())
    if inheritance.exact:
        assert distance(before, after) < ROUNDING


@fixed
@given(macros, st.lists(blocks, min_size=7, max_size=7), st.integers(2, 5), seeds)
def test_exact_is_said_of_several_mutations_at_once_only_where_it_is_true(macro, drawn, count, seed) -> None:
    parent = NetworkSpec(Architecture(tuple(drawn[: len(macro.base)])), macro, TASK)
    chance, mutant = KeyedRng(seed, "mutant"), parent.architecture
    for _ in range(count):
        mutant = Space(macro, TASK).mutate(mutant, chance, lambda digest: False).architecture
    old, new, inheritance = born(parent, NetworkSpec(mutant, macro, TASK), seed)
    before, after = logits(old, images()), logits(new, images())
    assume((before - before.mean(0)).abs().max() > 1e-6)
    assert bool(after.isfinite().all())
    if inheritance.exact:
        assert distance(before, after) < ROUNDING


@pytest.mark.slow
@fixed
@given(macros, st.lists(blocks, min_size=7, max_size=7), st.data())
def test_growing_several_blocks_at_once_is_exact(macro, drawn, data) -> None:
    blocks = [b.with_value("skip", b.skip and b.op != "sep") for b in drawn[: len(macro.base)]]
    grown = []
    for block in blocks:
        ops = ["sep"] if block.op == "sep" else OPS[OPS.index(block.op) :]
        kernels, depths = KERNELS[KERNELS.index(block.kernel) :], DEPTHS[DEPTHS.index(block.depth) :]
        op, kernel, depth = (data.draw(st.sampled_from(values)) for values in (ops, kernels, depths))
        # Widening may turn a bypass into an identity, and no identity does what a bypass did.
        grown.append(Block(op, kernel, block.skip, depth, block.width))
    parent, child = (NetworkSpec(Architecture(tuple(chosen)), macro, TASK) for chosen in (blocks, grown))
    old, new, inheritance = born(parent, child)
    assert inheritance.exact
    before = logits(old, images())
    assume((before - before.mean(0)).abs().max() > 1e-6)
    assert distance(before, logits(new, images())) < ROUNDING


def test_a_bypass_where_there_was_none_starts_at_zero_and_changes_nothing() -> None:
    parent = plan("mb3_k3_d1_w1.0/mb3_k3_d1_w2.0/mb3_k3_d1_w1.0/mb3_k3_d1_w2.0")
    child = changed(parent, Change(2, "skip", False, True))
    old, new, inheritance = born(parent, child)
    assert inheritance.exact
    assert distance(logits(old, images()), logits(new, images())) < ROUNDING


def test_an_identity_that_becomes_a_bypass_goes_on_as_the_identity() -> None:
    parent = plan("mb3_k3_d1_w1.0_skip")
    child = changed(parent, Change(2, "width", 1.0, 1.5))
    old, new, inheritance = born(parent, child)
    assert inheritance.exact
    assert inheritance.share < 1
    assert distance(logits(old, images()), logits(new, images())) < ROUNDING


def test_a_bypass_that_becomes_an_identity_is_not_exact() -> None:
    parent = plan("mb3_k3_d1_w1.0_skip/mb3_k3_d1_w0.5_skip/mb3_k3_d1_w1.0_skip/mb3_k3_d1_w1.0_skip")
    _, _, inheritance = born(parent, changed(parent, Change(2, "width", 0.5, 1.0)))
    assert (inheritance.exact, inheritance.reinitialized_blocks) == (False, ())


def test_the_same_network_inherits_everything() -> None:
    parent = plan("mb3_k3_d2_w1.0_skip", TINY)
    old, new, inheritance = born(parent, parent)
    assert inheritance == Inheritance(1.0, True, ())
    state = old.state_dict()
    counters = "num_batches_tracked"
    assert all(torch.equal(state[n], values) for n, values in new.state_dict().items() if not n.endswith(counters))


def test_zeros_placed_for_exactness_do_not_count_as_inherited() -> None:
    parent = plan("sep_k3_d1_w1.0", EVEN)
    child = changed(parent, Change(1, "kernel", 3, 5))
    _, new, inheritance = born(parent, child)
    total = sum(parameter.numel() for parameter in new.parameters())
    assert inheritance.share == (total - 8 * (25 - 9)) / total


def test_a_deeper_separable_block_with_skip_is_nearly_what_it_was() -> None:
    parent = plan("sep_k3_d1_w1.0_skip")
    old, new, _ = born(parent, changed(parent, Change(2, "depth", 1, 2)))
    assert 0 < distance(logits(old, images()), logits(new, images())) < 0.1


def test_narrowing_keeps_the_channels_that_matter_most() -> None:
    parent = plan("mb3_k3_d1_w1.0")
    old = trained(parent, 0)
    child = changed(parent, Change(2, "width", 1.0, 0.5))
    mattering = [1, 3, 4, 6]
    with torch.no_grad():
        # Channels that the next block does not look at.
        old.features[5][0].weight[:, [0, 2, 5, 7]] = 0
        old.features[5][0].weight[:, mattering] += 1
    new = fresh(child, 2)
    inherit_weights(old.state_dict(), parent, new, child)
    assert torch.equal(new.features[4][7].bias, old.features[4][7].bias[mattering])
    assert torch.equal(new.features[4][7].running_var, old.features[4][7].running_var[mattering])


def test_both_ends_of_an_identity_keep_the_same_channels() -> None:
    parent = plan("mb3_k3_d2_w1.0_skip")
    child = changed(parent, *(Change(block, "width", 1.0, 0.5) for block in (1, 2, 3, 4)))
    old = trained(parent, 0)
    new = fresh(child, 2)
    inherit_weights(old.state_dict(), parent, new, child)
    kept = [
        [int((old.features[layer].body[7].bias == value).nonzero()) for value in new.features[layer].body[7].bias]
        for layer in range(3, 7)
    ]
    assert kept[0] == kept[1] == kept[2] == kept[3]


def test_inheriting_draws_nothing_and_gives_the_same_bits() -> None:
    parent = plan("mb3_k3_d1_w1.0_skip")
    child = changed(parent, Change(2, "width", 1.0, 2.0), Change(3, "op", "mb3", "sep"), Change(4, "depth", 1, 2))
    before = torch.get_rng_state()
    states = [born(parent, child)[1].state_dict() for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_parents_state_is_not_touched_by_its_childs_training() -> None:
    parent = plan("mb3_k3_d1_w1.0_skip")
    old, new, _ = born(parent, parent)
    before = {name: values.clone() for name, values in old.state_dict().items()}
    one_step(new, images(count=8), torch.arange(8))
    assert all(torch.equal(before[name], values) for name, values in old.state_dict().items())


def test_another_task_takes_all_but_the_stem_and_the_classifier() -> None:
    parent = plan("mb3_k3_d2_w1.0_skip", TINY)
    child = plan("mb3_k3_d2_w1.0_skip", TINY, Task(28, 3, 5))
    old, new, inheritance = born(parent, child)
    untouched = fresh(child, 2).state_dict()
    afresh = [name for name, values in new.state_dict().items() if torch.equal(values, untouched[name])]
    assert {name for name in afresh if "num_batches" not in name} == {
        *(f"features.0.{name}" for name in ("weight",)),
        *(f"features.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        *(f"classifier.{name}" for name in ("weight", "bias")),
    }
    assert torch.equal(new.features[3].body[0].weight, old.features[3].body[0].weight)
    assert not inheritance.exact
    assert inheritance.share > 0.9


def test_a_wider_macro_of_the_same_strides_is_exact() -> None:
    wider = Macro("wider", 12, 1, EVEN.strides, (16, 16, 16, 16), 32)
    code = "mb3_k3_d2_w1.0/sep_k3_d2_w1.0/mb6_k3_d1_w1.0_skip/mb3_k5_d1_w1.0"
    old, new, inheritance = born(plan(code), plan(code, wider))
    assert inheritance.exact
    assert distance(logits(old, images()), logits(new, images())) < ROUNDING


def test_a_macro_of_other_strides_or_fewer_channels_takes_what_fits() -> None:
    code = "mb3_k3_d2_w1.0_skip"
    for macro in (PRESETS["eatnas-cifar"], PRESETS["eatnas-small"]):
        for parent, child in ((TINY, macro), (macro, TINY)):
            _, new, inheritance = born(plan(code, parent), plan(code, child, Task(32, 3, 10)))
            assert not inheritance.exact
            assert 0.01 < inheritance.share < 1
            assert bool(logits(new, images(Task(32, 3, 10))).isfinite().all())


def test_a_state_of_another_network_is_refused() -> None:
    parent, other = plan("mb3_k3_d1_w1.0_skip"), plan("mb6_k3_d1_w1.0_skip")
    with pytest.raises(RuntimeError, match="size mismatch"):
        inherit_weights(trained(other, 0).state_dict(), parent, fresh(parent, 1), parent)


def test_a_parent_of_another_number_of_blocks_is_refused() -> None:
    parent, child = plan("mb3_k3_d1_w1.0_skip"), plan("mb3_k3_d1_w1.0_skip", TINY)
    with pytest.raises(ValueError, match="argument"):
        born(parent, child)


@pytest.mark.parametrize(
    ("code", "primitive", "after"),
    [*EXACT, ("sep_k3_d1_w1.0_skip", "depth", 3), ("mb3_k3_d2_w1.0", "skip", True)],
)
def test_nothing_that_is_new_is_dead(code, primitive, after) -> None:
    parent = plan(code)
    child = changed(parent, Change(2, primitive, "", after), Change(4, primitive, "", after))
    _, new, _ = born(parent, child)
    before = {name: parameter.detach().clone() for name, parameter in new.named_parameters()}
    inputs, labels = images(count=32), torch.arange(32) % 10
    losses = [one_step(new, inputs, labels) for _ in range(4)]
    assert losses[-1] < losses[0]
    for name, parameter in new.named_parameters():
        moved = (parameter != before[name]).reshape(len(parameter), -1).any(1)
        # The next batch-norm takes away what a beta adds, so a beta may rest; and a channel or two of the
        # random parent may be off for all images.
        assert name.endswith("bias") or float(moved.double().mean()) > 0.8, name


def test_the_layer_appended_to_a_separable_block_learns() -> None:
    parent = plan("sep_k3_d1_w1.0_skip")
    _, new, _ = born(parent, changed(parent, Change(2, "depth", 1, 2)))
    gamma = new.features[5].body[4].weight
    before = gamma.detach().clone()
    inputs, labels = images(count=32), torch.arange(32) % 10
    for _ in range(10):
        one_step(new, inputs, labels, 0.1)
    assert bool(((gamma - before).abs() > before.abs()).any())


@pytest.mark.parametrize("code", ["mb3_k3_d1_w1.0", "mb6_k5_d1_w1.0", "sep_k3_d1_w1.0"])
def test_a_layer_that_hands_on_its_input_does_so_nearly_in_training_too(code) -> None:
    parent = plan(code)
    old, new, _ = born(parent, changed(parent, Change(2, "depth", 1, 2)))
    inputs = images(count=64)
    with torch.no_grad():
        before, after = old.train()(inputs), new.train()(inputs)
    assert float((after - before).std() / (before - before.mean(0)).std()) < 0.3
