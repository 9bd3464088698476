"""Each exception has the right failure kind. The tests need no GPU, because they raise errors with CUDA's messages
themselves.
"""

from __future__ import annotations

import pytest
import torch

from eatnas_training import failures
from support.trainings import MakeAssignment, failed, run_training

NO_ENGINE = "GET was unable to find an engine to execute this computation"


def test_infinite_loss_is_diverged(assignment: MakeAssignment) -> None:
    reports = run_training(assignment(learning_rate=100.0, weight_decay=1.0, epochs=60, warmup=0.0))
    assert failed(reports).kind == "diverged"


def test_missing_data_and_invalid_code_have_their_kinds(assignment: MakeAssignment) -> None:
    missing = failed(run_training(assignment(data={"name": "MNIST", "root": "/nowhere"})))
    assert missing.kind == "unreadable_data"
    invalid = failed(run_training(assignment(code=[[0, 0, 0, 0, 1.0]])))
    assert invalid.kind == "exception"
    assert "Traceback" in invalid.traceback


def test_exhausted_cpu_memory_is_out_of_memory(assignment: MakeAssignment, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust_memory(*_: object, **__: object) -> None:
        torch.empty(1 << 50, dtype=torch.uint8)

    monkeypatch.setattr("eatnas_training.steps.cross_entropy", exhaust_memory)
    failure = failed(run_training(assignment()))
    assert failure.kind == "out_of_memory"
    assert not failure.fatal


@pytest.mark.parametrize(
    ("message", "kind", "fatal"),
    [
        ("CUDA error: out of memory", "out_of_memory", False),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out_of_memory", False),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "out_of_memory", False),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", "out_of_memory", False),
        (NO_ENGINE, "exception", True),
        (
            "CUDNN_BACKEND_TENSOR_DESCRIPTOR cudnnFinalize failed cudnn_status: CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED",
            "exception",
            True,
        ),
        ("CUDA error: an illegal memory access was encountered", "exception", True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "exception", True),
        ("CUDA driver error: out of memory", "out_of_memory", False),
        ("CUDA error: uncorrectable ECC error encountered", "lost", True),
        ("The size of tensor a (3) must match the size of tensor b (4)", "exception", False),
    ],
)
def test_cuda_errors_have_their_kinds(
    assignment: MakeAssignment, monkeypatch: pytest.MonkeyPatch, message: str, kind: str, fatal: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("eatnas_training.steps.cross_entropy", fail)
    failure = failed(run_training(assignment()))
    assert (failure.kind, failure.fatal) == (kind, fatal)


def test_missing_engine_is_out_of_memory_if_memory_is_low(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError(NO_ENGINE)
    memory = {"mem_get_info": (1 << 30, 24 << 30), "memory_reserved": 5 << 30, "memory_allocated": 5 << 30}
    for name, value in memory.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert failures.is_out_of_memory(error)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2 << 30)
    assert not failures.is_out_of_memory(error)
    assert failures.is_cuda_error(error)
