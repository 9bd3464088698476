"""Training works on processors without AVX-512, which `ONEDNN_MAX_CPU_ISA` imitates."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
for name, side, count in (("eatnas-tiny", 8, COUNT), ("eatnas-small", 28, COUNT)):
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
import torch
from torch.nn import functional
from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_training import network

def gradients(architecture, macro, task, safe_channels):
    network.SAFE_CHANNELS = safe_channels
    model = network.build(architecture, macro, task).to(memory_format=torch.channels_last)
    network.initialize(model, 1)
    size = (32, task.channels, task.resolution, task.resolution)
    images = torch.rand(size, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
    logits = model(images)
    functional.cross_entropy(logits, torch.arange(32) % 10).backward()
    return [logits, *(weight.grad for weight in model.parameters())]

torch.set_num_threads(1)
safe_channels, compared = network.SAFE_CHANNELS, 0
for name, side, count in (("eatnas-tiny", 8, 40), ("eatnas-small", 28, 10)):
    macro, task = PRESETS[name], Task(side, 1, 10)
    space = Space(macro, task, Limits())
    for number in range(count):
        architecture = space.sample(KeyedRng(number, "sample", 0), lambda digest: False).architecture
        convolutions = [part for part in network.build(architecture, macro, task).modules()
                        if isinstance(part, network.Convolution)]
        if not any(part.kernel_size == (1, 1) and part.stride[0] > 1 and part.in_channels < safe_channels
                   for part in convolutions):
            continue
        compared += 1
        assert all(map(torch.equal, gradients(architecture, macro, task, safe_channels),
                       gradients(architecture, macro, task, 0))), architecture
print("equal" if compared > 3 else "nothing compared")
"""


@pytest.fixture
def without_avx512():
    return {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}


@pytest.mark.parametrize("count", [pytest.param(8, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.soak)])
def test_random_networks_train_without_avx512(without_avx512, count):
    command = [sys.executable, "-c", TRAIN_NETWORKS.replace("COUNT", str(count))]
    done = subprocess.run(command, env=without_avx512, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


@pytest.mark.slow
def test_convolutions_are_exact_without_avx512(without_avx512):
    command = [sys.executable, str(BENCHMARKS / "convolutions.py"), "--every", "29"]
    done = subprocess.run(command, env=without_avx512, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the plain convolution crashes without AVX-512"
)
def test_subsampling_keeps_the_bits_of_strided_convolutions():
    done = subprocess.run([sys.executable, "-c", COMPARE_BITS], capture_output=True, text=True, check=False)
    assert done.stdout == "equal\n", done.stderr
