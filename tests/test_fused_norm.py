"""The fused batch norm and ReLU of the GPU benchmarks agree with torch. Triton's interpreter runs the kernels on a CPU.
The interpreter must be chosen before Triton is imported, so another process computes all results.
"""

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"
SHAPES = {
    "odd": (2, 3, 4, 5),
    "one channel of one image": (1, 1, 5, 5),
    "one image": (1, 13, 7, 3),
    "several blocks of channels": (3, 70, 6, 6),
    "parts of several tiles": (2, 24, 16, 16),
    "many parts": (2, 3, 30, 30),
    "far from zero": (2, 8, 9, 9),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
FAR_TOLERANCE = 2e-3
"""A mean of 1000 has an error of 3e-5, because the mean is stored as a float32 number. With sums of squares, the error
would be 1e-2.
"""
SIZES = {
    "parts of several tiles": {"MAX_PARTS": 3},  # the last part has fewer tiles
    "many parts": {"FINISH_BLOCKS": {"block_parts": 8, "block_channels": 16}},
}
KERNELS = (
    "sum_values",
    "finish_statistics",
    "normalize",
    "sum_gradients",
    "finish_gradients",
    "normalize_backward",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton"),
]


def make_norm(channels):
    norm = nn.BatchNorm2d(channels, 2e-5, 0.1)
    draws = torch.Generator().manual_seed(2)
    for state, low in ((norm.weight, -1), (norm.bias, -1), (norm.running_mean, -1), (norm.running_var, 0.5)):
        nn.init.uniform_(state, low, 2, generator=draws)
    return norm


def make_images(name, dtype):
    """Return images that are not channels-last, and an expanded gradient, as from the backward pass of `mean`."""
    draws = torch.Generator().manual_seed(1)
    shape = SHAPES[name]
    images = 2 * torch.randn(shape, generator=draws) + (1000 if name == "far from zero" else 0.5)
    gradient = torch.randn(*shape[:2], 1, 1, generator=draws).expand(shape)
    return images.to(DTYPES[dtype]), gradient.to(DTYPES[dtype])


def train(module, norm, images, gradient):
    """Return all results of a forward and a backward pass."""
    images = images.detach().clone().requires_grad_()
    outputs = module(images)
    outputs.backward(gradient)
    return {
        "outputs": outputs.detach(),
        "gradient of the images": images.grad,
        "gradient of the weight": norm.weight.grad,
        "gradient of the bias": norm.bias.grad,
        "running mean": norm.running_mean,
        "running variance": norm.running_var,
        "batches": norm.num_batches_tracked,
    }


def compute_all(file):
    """Compute the results of the fused module. This function runs in its own process."""
    import fused_norm

    results = {}
    for name, shape in SHAPES.items():
        usual = {size: getattr(fused_norm, size) for size in ("MAX_PARTS", "FINISH_BLOCKS")}
        vars(fused_norm).update(SIZES.get(name, {}))
        for dtype in DTYPES:
            norms = [make_norm(shape[1]) for _ in range(2)]
            results[name, dtype] = [
                train(fused_norm.FusedNormReLU.of(norm), norm, *make_images(name, dtype)) for norm in norms
            ]
        vars(fused_norm).update(usual)
    module = fused_norm.FusedNormReLU.of(make_norm(3))
    images, _ = make_images("odd", "float32")
    images[0, 1, 2, 3] = torch.nan
    results["not a number"] = module(images).detach()
    results["eval"] = fused_norm.FusedNormReLU.of(make_norm(3)).eval()(make_images("odd", "float32")[0]).detach()
    try:
        module(torch.zeros(1, 3, 1, 1))
    except ValueError as error:
        results["one value"] = str(error)
    model = make_model()
    results["fused"] = fused_norm.fuse(model)
    loss = model(make_images("odd", "float32")[0]).square().sum()
    loss.backward()
    results["gradients"] = [parameter.grad for parameter in model.parameters()]
    results["state"] = model.state_dict()
    torch.save(results, file)


def make_model():
    """Return a model of two convolutions. The second convolution has no ReLU."""
    convolutions = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False)
    for convolution in convolutions:
        nn.init.uniform_(convolution.weight, -1, 1, generator=torch.Generator().manual_seed(3))
    first, second = convolutions
    return nn.Sequential(nn.Sequential(first, make_norm(4), nn.ReLU(inplace=True)), second, make_norm(2))


def compile_all():
    """Compile every kernel for a Hopper GPU. The compilation needs no GPU."""
    import fused_norm
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    numbers = {"positions": "i32", "channels": "i32", "part_positions": "i32", "parts": "i32"}
    numbers |= {"momentum": "fp32", "epsilon": "fp32"}
    for name in KERNELS:
        kernel = getattr(fused_norm, name)
        blocks = fused_norm.FINISH_BLOCKS if name.startswith("finish") else fused_norm.Tiling(50_176, 13).blocks
        images = "values", "outputs", "gradients", "results"
        types = {
            argument: "constexpr"
            if argument in blocks
            else numbers.get(argument, "*bf16" if argument in images else "*fp32")
            for argument in kernel.arg_names
        }
        triton.compile(ASTSource(kernel, types, constexprs=blocks), target=GPUTarget("cuda", 90, 32))


def run_function(name, *arguments, **variables):
    """Call a function of this file in a new process."""
    paths = f"{Path(__file__).parent}{os.pathsep}{FOLDER}"
    program = f"import sys, {Path(__file__).stem} as tests; tests.{name}(*sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": paths, **variables}
    done = subprocess.run([sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    file = tmp_path_factory.mktemp("fused") / "results.pt"
    run_function("compute_all", str(file), TRITON_INTERPRET="1")
    return torch.load(file)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_fused_norm_agrees_with_batch_norm_and_relu(computed, name, dtype):
    norm = make_norm(SHAPES[name][1]).double()
    images, gradient = make_images(name, dtype)
    expected = train(nn.Sequential(norm, nn.ReLU()), norm, images.double(), gradient.double())
    found, again = computed[name, dtype]
    for key, value in expected.items():
        assert torch.equal(found[key], again[key]), key
        distance = (found[key].double() - value).norm() / value.double().norm()
        tolerance = TOLERANCES.get(found[key].dtype, 0)
        assert distance <= (max(FAR_TOLERANCE, tolerance) if name == "far from zero" else tolerance), (key, distance)
    assert found["outputs"].dtype == found["gradient of the images"].dtype == DTYPES[dtype]
    assert found["outputs"].is_contiguous(memory_format=torch.channels_last)


def test_nan_stays_nan_in_its_channel_alone(computed):
    nan = computed["not a number"].isnan()
    assert nan[:, 1].all()
    assert not nan[:, [0, 2]].any()


def test_fused_norm_evaluates_with_its_running_statistics(computed):
    expected = make_norm(3).eval()(make_images("odd", "float32")[0]).relu()
    assert torch.equal(computed["eval"], expected)
    assert computed["one value"] == "batch norm needs more than one value for each channel, not (1, 3, 1, 1)"


def test_fuse_replaces_norms_that_a_relu_follows(computed):
    assert computed["fused"] == 1
    model = make_model()
    expected = copy.deepcopy(model.state_dict())
    model(make_images("odd", "float32")[0]).square().sum().backward()
    for found, parameter in zip(computed["gradients"], model.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-4)
    assert computed["state"].keys() == expected.keys()
    assert computed["state"]["0.1.num_batches_tracked"] == 1


def test_every_kernel_compiles_for_a_gpu(tmp_path):
    run_function("compile_all", TRITON_CACHE_DIR=str(tmp_path))
