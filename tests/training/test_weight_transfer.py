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
"""Blocks of equal width, in which a change can turn an identity into a bypass and back."""
ROUNDING = 1e-9

# Fixed examples give the same result on every machine and in every run.
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


def network_spec(code: str, macro: Macro = EVEN, task: Task = TASK) -> NetworkSpec:
    """`code` is one block for all blocks of the macro, or all of them."""
    block_codes = code.split("/")
    return NetworkSpec(
        Architecture.parse("/".join(block_codes if len(block_codes) > 1 else block_codes * len(macro.base))),
        macro,
        task,
    )


def apply_changes(parent: NetworkSpec, *changes: Change) -> NetworkSpec:
    architecture = parent.architecture
    for change in changes:
        architecture = apply_change(architecture, change)
    return NetworkSpec(architecture, parent.macro, parent.task)


def initialized(spec: NetworkSpec, seed: int) -> network.Network:
    """In double precision, so that rounding is far smaller than any other difference."""
    model = network.build(spec.architecture, spec.macro, spec.task)
    network.initialize(model, seed)
    return model.double()


def trained(spec: NetworkSpec, seed: int) -> network.Network:
    """A network as after a training: random gammas and betas, and batch-norm statistics that fit the weights."""
    model = initialized(spec, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_(1, 0.3, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
                module.momentum = 0.9
        model.classifier.weight.normal_(generator=generator)
        model.classifier.bias.normal_(generator=generator)
        model.train()(images(spec.task, count=8, seed=seed))
    return model


def images(task: Task = TASK, count: int = 4, seed: int = 0) -> Tensor:
    shape = (count, task.channels, task.resolution, task.resolution)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        result: Tensor = model.eval()(inputs)
    return result


def distance(one: Tensor, other: Tensor) -> float:
    """The largest difference between two sets of logits, relative to the spread of the first between images."""
    return float((one - other).abs().max() / (one - one.mean(0)).abs().max())


def inherit(
    parent: NetworkSpec, child: NetworkSpec, seed: int = 0
) -> tuple[network.Network, network.Network, Inheritance]:
    old, new = trained(parent, seed), initialized(child, seed + 2)
    return old, new, inherit_weights(old.state_dict(), parent, new, child)


def one_step(model: nn.Module, inputs: Tensor, labels: Tensor, rate: float = 0.05) -> float:
    """Take a step of gradient descent in training mode; return the loss before it."""
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
        # The width stays: widening may turn a bypass into an identity, which cannot be exact.
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
        # The next block does not read the other channels.
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


@pytest.mark.parametrize(
    ("code", "primitive", "after"),
    [*EXACT, ("sep_k3_d1_w1.0_skip", "depth", 3), ("mb3_k3_d2_w1.0", "skip", True)],
)
def test_all_new_parameters_learn(code, primitive, after) -> None:
    parent = network_spec(code)
    child = apply_changes(parent, Change(2, primitive, "", after), Change(4, primitive, "", after))
    _, new, _ = inherit(parent, child)
    before = {name: parameter.detach().clone() for name, parameter in new.named_parameters()}
    inputs, labels = images(count=32), torch.arange(32) % 10
    losses = [one_step(new, inputs, labels) for _ in range(4)]
    assert losses[-1] < losses[0]
    for name, parameter in new.named_parameters():
        is_changed = (parameter != before[name]).reshape(len(parameter), -1).any(1)
        # Biases may stay, since the next batch-norm removes their effect. A few channels of the random parent may be
        # inactive for all images.
        assert name.endswith("bias") or float(is_changed.double().mean()) > 0.8, name


def test_layer_appended_to_a_separable_block_learns() -> None:
    parent = network_spec("sep_k3_d1_w1.0_skip")
    _, new, _ = inherit(parent, apply_changes(parent, Change(2, "depth", 1, 2)))
    gamma = new.features[5].body[4].weight
    before = gamma.detach().clone()
    inputs, labels = images(count=32), torch.arange(32) % 10
    for _ in range(10):
        one_step(new, inputs, labels, 0.1)
    assert bool(((gamma - before).abs() > before.abs()).any())


@pytest.mark.parametrize("code", ["mb3_k3_d1_w1.0", "mb6_k5_d1_w1.0", "sep_k3_d1_w1.0"])
def test_identity_layer_is_nearly_exact_in_training_mode(code) -> None:
    parent = network_spec(code)
    old, new, _ = inherit(parent, apply_changes(parent, Change(2, "depth", 1, 2)))
    inputs = images(count=64)
    with torch.no_grad():
        before, after = old.train()(inputs), new.train()(inputs)
    assert float((after - before).std() / (before - before.mean(0)).std()) < 0.3
