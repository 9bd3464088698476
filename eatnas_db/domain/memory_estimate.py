"""Estimate the GPU memory that a training needs, before any training has run on the device. All functions are pure.

    bytes = CONTEXT + 16 · parameters + bytes per value · activations · batch size

- CONTEXT: the memory of CUDA, cuDNN, cuBLAS's workspaces and a few kernels before the first tensor.
- 16 bytes per parameter: the weight, its gradient, its momentum and one temporary copy.
- Activations: the values per image that are kept for the backward pass, counted from the architecture
  (`domain.activations`). A value takes 4 bytes in float32 and 2 in bfloat16.

Once trainings of the search have finished, further estimates are multiplied by the largest ratio of measured to
estimated memory and by a margin. The ratio leaves out memory that does not depend on the network, because such memory
would distort the ratio of small networks.
"""

from __future__ import annotations

from typing import Final

CONTEXT_BYTES: Final = 1 << 30
BYTES_PER_PARAMETER: Final = 16
WORKSPACES_BYTES: Final = 128 << 20
"""The bytes that cuBLAS and cuDNN hold in torch's allocator for any network. These bytes count as part of the
context.
"""
MIN_MEASURED_SHARE: Final = 0.1
MEASURED_SHARE_MARGIN: Final = 1.15
"""The factor by which the measured share is raised, because the next network may reuse memory less well."""


def bytes_per_value(precision: str) -> int:
    """Return the size of one activation in bytes; `precision` is `float32` or `bfloat16`."""
    return 2 if precision == "bfloat16" else 4


def variable_bytes(params: int, activations: int, batch_size: int, precision: str = "float32") -> int:
    """Return the estimated memory of a training in bytes, without the context.

    `activations` counts values per image.
    """
    return BYTES_PER_PARAMETER * params + bytes_per_value(precision) * activations * batch_size


def measured_share_of_estimate(*, peak_bytes: int, images_bytes: int, estimated_bytes: int) -> float:
    """Return the ratio of measured to estimated memory. `estimated_bytes` are the `variable_bytes` of the training."""
    used_bytes = peak_bytes - images_bytes - WORKSPACES_BYTES
    return max(MIN_MEASURED_SHARE, used_bytes / estimated_bytes)


def expected_bytes(
    params: int, activations: int, batch_size: int, measured_share: float | None, precision: str = "float32"
) -> int:
    """Return the expected memory of a training in bytes, without the context.

    `measured_share` is the largest ratio of measured to estimated memory in the search, or None before the first
    measurement.
    """
    return int(_corrected(measured_share) * variable_bytes(params, activations, batch_size, precision))


def max_variable_bytes(free_bytes: int, measured_share: float | None) -> int:
    """Return the largest `variable_bytes` of a training that fits into `free_bytes` together with its context."""
    return max(0, int((free_bytes - CONTEXT_BYTES) / _corrected(measured_share)))


def _corrected(measured_share: float | None) -> float:
    return 1.0 if measured_share is None else measured_share * MEASURED_SHARE_MARGIN
