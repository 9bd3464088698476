from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.cost import compute_cost
from eatnas_db.domain.macro import PRESETS, Task
from eatnas_training import network

ROWS = json.loads((Path(__file__).parents[1] / "data" / "oracle-sample.json").read_text())
TINY_TASK = Task(8, 1, 10)


def mult_adds(model: nn.Module, task: Task) -> int:
    counted = []

    def count(module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            counted.append(module.weight[0].numel() * output[0].numel())
        elif isinstance(module, nn.Linear):
            counted.append(module.weight.numel())

    for module in model.modules():
        module.register_forward_hook(count)
    model.eval()(torch.empty(1, task.channels, task.resolution, task.resolution, device="meta"))
    return sum(counted)


def test_oracle_has_24_networks() -> None:
    assert len(ROWS) == 24


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_network_has_the_parameters_and_mult_adds_of_the_authors(row: dict[str, Any]) -> None:
    task = Task(row["resolution"], 3, row["classes"])
    with torch.device("meta"):
        model = network.build(Architecture.from_code(row["code"]), PRESETS["eatnas-imagenet"], task)
    assert sum(parameter.numel() for parameter in model.parameters()) == row["params"]
    assert mult_adds(model, task) == row["mult_adds"]


@pytest.mark.slow
@pytest.mark.parametrize("macro", PRESETS.values(), ids=PRESETS)
def test_network_agrees_with_the_analytic_cost_under_every_macro(macro: Any) -> None:
    for row in ROWS[:6]:
        architecture = Architecture.from_code(row["code"])
        task = Task(32, 3, 10)
        with torch.device("meta"):
            model = network.build(architecture, macro, task)
        expected = compute_cost(architecture, macro, task)
        assert sum(parameter.numel() for parameter in model.parameters()) == expected.params
        assert mult_adds(model, task) == expected.mult_adds


def tiny(seed: int) -> network.Network:
    architecture = Architecture.from_code(ROWS[4]["code"])
    model = network.build(architecture, PRESETS["eatnas-tiny"], TINY_TASK)
    network.initialize(model, seed)
    return model


def test_initial_weights_depend_only_on_the_seed() -> None:
    torch.manual_seed(1)
    first = tiny(3).state_dict()
    torch.manual_seed(2)
    second, other = tiny(3).state_dict(), tiny(4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_initialization_leaves_the_global_generator_unchanged() -> None:
    before = torch.get_rng_state()
    tiny(3)
    assert torch.equal(before, torch.get_rng_state())


def test_batch_norms_have_the_constants_of_the_authors() -> None:
    for module in tiny(0).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (2e-5, 0.1)
            assert bool((module.weight == 1).all() and (module.bias == 0).all())
        if isinstance(module, nn.Conv2d):
            assert module.bias is None


def test_separable_block_with_skip_adds_its_input() -> None:
    plain = Architecture.parse("/".join(["sep_k3_d2_w1.0"] * 7))
    skipping = Architecture.parse("/".join(["sep_k3_d2_w1.0_skip"] * 7))
    images = torch.ones(2, 1, 8, 8)
    outputs = []
    for architecture in (plain, skipping):
        model = network.build(architecture, PRESETS["eatnas-tiny"], TINY_TASK)
        network.initialize(model, 0)
        outputs.append(model.eval()(images))
    assert outputs[0].shape == (2, 10)
    assert not torch.equal(*outputs)
