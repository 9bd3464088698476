"""What went wrong in a training, told by its exception: of what kind it is, and whether this process can go on."""

from __future__ import annotations

from typing import Final

import torch

from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import DataError

# Neither the processor's allocator nor the libraries below torch have classes of their own for it. The last is what
# a GPU says that is full when the first product of matrices comes.
_NO_MEMORY: Final = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "_STATUS_ALLOC_FAILED",
    "_ALLOCATION_FAILED",
    "NOT_INITIALIZED when calling `cublasCreate",
)
_NO_ENGINE: Final = "unable to find an engine to execute this computation"
"""So torch says where cuDNN has no way to compute a convolution, and where no way's workspace fits."""
_SHORT: Final = 1 / 16
"""Memory is short where less of it is free."""
_HARDWARE: Final = (
    "uncorrectable ",
    "is/are busy or unavailable",
    "no CUDA-capable device is detected",
    "system not yet initialized",
    "CUDA error: unknown error",
)
"""As the CUDA runtime words memory and links that fail, and devices that are gone: no candidate's doing."""
_OF_CUDA: Final = ("CUDA error", "CUDA driver error", "cuDNN ", "CUDNN_", "CUBLAS_", _NO_ENGINE)
_ACCELERATOR: Final[type[Exception] | tuple[()]] = getattr(torch, "AcceleratorError", ())  # since torch 2.8


class DivergedError(Exception):
    """The loss is not a number any more."""


class ParentMissingError(Exception):
    """The parent's weights are gone or damaged, and its heritage is not at hand."""


def kind_of(error: Exception) -> FailureKind:
    """The kind of failure that a training has ended in."""
    if isinstance(error, DivergedError):
        return FailureKind.DIVERGED
    if isinstance(error, DataError):
        return FailureKind.UNREADABLE_DATA
    if isinstance(error, ParentMissingError):
        return FailureKind.PARENT_MISSING
    if is_out_of_memory(error):
        return FailureKind.OUT_OF_MEMORY
    if is_of_cuda(error) and any(words in str(error) for words in _HARDWARE):
        return FailureKind.LOST
    return FailureKind.EXCEPTION


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was short, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return any(words in str(error) for words in _NO_MEMORY) or (_NO_ENGINE in str(error) and memory_is_short())


def memory_is_short() -> bool:
    """Whether hardly anything of the GPU's memory can be had, by the driver or from what torch keeps."""
    try:
        free, total = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated() < _SHORT * total
    except (RuntimeError, AssertionError):  # there is no GPU, or it says nothing any more
        return False


def is_of_cuda(error: Exception) -> bool:
    """Whether CUDA has failed: as a rule nothing more can be computed in this process."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, _ACCELERATOR) or (
        isinstance(error, RuntimeError) and any(w in str(error) for w in _OF_CUDA)
    )
