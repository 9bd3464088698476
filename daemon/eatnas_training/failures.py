"""Classify a training's exceptions: the kind of failure, and whether the process can continue."""

from __future__ import annotations

from typing import Final

import torch

from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import DataError, PluginError
from eatnas_training.programs.errors import InvalidReportError

_OUT_OF_MEMORY: Final = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "_STATUS_ALLOC_FAILED",
    "_ALLOCATION_FAILED",
    "NOT_INITIALIZED when calling `cublasCreate",
)
"""Messages about exhausted memory from the CPU allocator and from libraries below torch, which raise plain
RuntimeErrors.

The last message appears if the memory of a GPU is full at the first matrix product.
"""
_NO_ENGINE: Final = "unable to find an engine to execute this computation"
"""cuDNN's message for a convolution that it cannot compute, for example because no workspace fits into memory."""
_LOW_MEMORY_SHARE: Final = 1 / 16
"""GPU memory counts as low if less than this share is free."""
_HARDWARE: Final = (
    "uncorrectable ",
    "is/are busy or unavailable",
    "no CUDA-capable device is detected",
    "system not yet initialized",
    "CUDA error: unknown error",
)
"""Messages of the CUDA runtime about faulty memory, faulty links and missing devices.

Candidates do not cause these errors.
"""
_CUDA_MESSAGES: Final = ("CUDA error", "CUDA driver error", "cuDNN ", "CUDNN_", "CUBLAS_", _NO_ENGINE)
_ACCELERATOR_ERROR: Final[type[Exception] | tuple[()]] = getattr(torch, "AcceleratorError", ())  # new in torch 2.8


class DivergedError(Exception):
    """The loss is infinite or NaN."""


class ParentMissingError(Exception):
    """The parent's weights are missing or damaged, and the assignment lacks the ancestors to train them again."""


class RankError(Exception):
    """Another process of a training on several devices has failed."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def failure_kind(error: Exception) -> FailureKind:
    """Return the kind of failure for an exception."""
    if isinstance(error, RankError):
        return error.kind
    if isinstance(error, DivergedError):
        return FailureKind.DIVERGED
    if isinstance(error, DataError):
        return FailureKind.UNREADABLE_DATA
    if isinstance(error, PluginError):
        return FailureKind.MISSING_PLUGIN
    if isinstance(error, InvalidReportError):
        return FailureKind.INVALID_REPORT
    if isinstance(error, ParentMissingError):
        return FailureKind.PARENT_MISSING
    if is_out_of_memory(error):
        return FailureKind.OUT_OF_MEMORY
    if is_cuda_error(error) and any(text in str(error) for text in _HARDWARE):
        return FailureKind.LOST
    return FailureKind.EXCEPTION


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the memory of the CPU or of a GPU was exhausted."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    message = str(error)
    return any(text in message for text in _OUT_OF_MEMORY) or (_NO_ENGINE in message and is_gpu_memory_low())


def is_gpu_memory_low() -> bool:
    """Return whether little GPU memory is free. Memory that torch has reserved but does not use counts as free."""
    try:
        free, total = torch.cuda.mem_get_info()
        available = free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return available < _LOW_MEMORY_SHARE * total
    except (RuntimeError, AssertionError):  # there is no GPU, or it has stopped answering
        return False


def is_cuda_error(error: Exception) -> bool:
    """Return whether CUDA failed for a reason other than exhausted memory.

    After such an error, the process usually cannot compute anything more.
    """
    if is_out_of_memory(error):
        return False
    return isinstance(error, _ACCELERATOR_ERROR) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _CUDA_MESSAGES)
    )
