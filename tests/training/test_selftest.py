"""The self-test of a device explains why torch cannot train.

The tests need no GPU, because they create the errors themselves.
"""

from __future__ import annotations

import pytest
import torch

from eatnas_training.selftest import describe_failure, train_all_operations

TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)."


def test_cpu_passes() -> None:
    train_all_operations("cpu")


@pytest.mark.parametrize(
    ("error", "expected"),
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
def test_gpu_error_is_described_in_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    message = describe_failure("cuda:0", error)
    assert expected in message
    assert "\n" not in message


def test_torch_without_cuda_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    message = describe_failure("cuda:0", AssertionError("Torch not compiled with CUDA enabled"))
    assert message.startswith(f"torch {torch.__version__} was built without CUDA; https://pytorch.org")
