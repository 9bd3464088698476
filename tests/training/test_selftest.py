"""Whether torch computes on a device, and the words for why not. What CUDA says is raised by hand: there is no GPU."""

from __future__ import annotations

import pytest
import torch

from eatnas_training.selftest import describe_failure, train_all_operations

TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)."


def test_the_processor_is_ready() -> None:
    train_all_operations("cpu")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Found no NVIDIA driver on your system. Please check"), "NVIDIA_DRIVER_CAPABILITIES"),
        (
            RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile"),
            "not built for",
        ),
        (RuntimeError(f"{TOO_OLD}\nmore"), TOO_OLD),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 256.00 MiB."), "out of memory"),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_why_torch_cannot_compute_on_a_gpu_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    told = describe_failure("cuda:0", error)
    assert words in told
    assert "\n" not in told


def test_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    told = describe_failure("cuda:0", AssertionError("Torch not compiled with CUDA enabled"))
    assert told.startswith(f"torch {torch.__version__} was built without CUDA; https://pytorch.org")
