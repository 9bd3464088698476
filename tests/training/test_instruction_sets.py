"""Training on processors without AVX-512, which `ONEDNN_MAX_CPU_ISA` imitates."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TRAIN_NETWORKS = """
import torch
from torch.nn import functional
from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_training.network import build, initialize

torch.set_num_threads(1)
for name, side, count in (("eatnas-tiny", 8, 100), ("eatnas-small", 28, 100)):
    task = Task(side, 1, 10)
    space = Space(PRESETS[name], task, Limits())
    for number in range(count):
        architecture = space.sample(KeyedRng(number, "sample", 0), lambda digest: False).architecture
        network = build(architecture, PRESETS[name], task).to(memory_format=torch.channels_last)
        initialize(network, number)
        images = torch.rand(8, 1, side, side, generator=torch.Generator().manual_seed(number))
        logits = network(images.to(memory_format=torch.channels_last))
        functional.cross_entropy(logits, torch.arange(8)).backward()
        assert all(weight.grad.isfinite().all() for weight in network.parameters()), number
print("trained")
"""
COMPARE_BITS = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from convolutions import all_shapes
from torch import nn
from eatnas_training.network import SAFE_CHANNELS, Convolution

torch.set_num_threads(1)
for shape in all_shapes():
    if shape.kernel > 1 or shape.stride == 1 or shape.inputs >= SAFE_CHANNELS:
        continue
    results = []
    for kind in (Convolution, nn.Conv2d):
        generator = torch.Generator().manual_seed(1)
        module = Convolution(shape.inputs, shape.outputs, 1, shape.stride)
        with torch.no_grad():
            module.weight.normal_(0, 1, generator=generator)
        size = (shape.batch, shape.inputs, shape.side, shape.side)
        images = torch.randn(size, generator=generator).to(memory_format=torch.channels_last).requires_grad_()
        module.to(memory_format=torch.channels_last)
        output = kind.forward(module, images)
        output.backward(torch.cos(torch.arange(output.numel())).view(output.shape))
        results.append((output, images.grad, module.weight.grad))
    assert all(map(torch.equal, *results)), shape
print("equal")
"""


@pytest.fixture
def without_avx512():
    return {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}


@pytest.mark.slow
def test_random_networks_train_without_avx512(without_avx512):
    command = [sys.executable, "-c", TRAIN_NETWORKS]
    done = subprocess.run(command, env=without_avx512, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


@pytest.mark.slow
def test_convolutions_are_exact_without_avx512(without_avx512):
    command = [sys.executable, str(BENCHMARKS / "convolutions.py"), "--every", "7"]
    done = subprocess.run(command, env=without_avx512, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_subsampling_keeps_the_bits_of_a_strided_convolution():
    command = [sys.executable, "-c", COMPARE_BITS, str(BENCHMARKS)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == "equal\n"
