"""Estimate the GPU memory that a training needs before any has run on that device. Pure, and generous on purpose.

    bytes = CONTEXT + 16 · parameters + mult-adds · batch size

- CONTEXT: the memory that CUDA, cuDNN, cuBLAS's workspaces and a few kernels take before the first tensor.
- 16 bytes per parameter: the weight, its gradient, its momentum and one temporary copy.
- One byte per mult-add per image of a batch: the activations that are kept for the backward pass. On the networks of
  the built-in spaces they measure less than half a byte; the rest is for workspaces and fragmentation in the allocator.

Once trainings have finished, the largest ratio of measured to estimated memory in the search corrects further
estimates. The ratio leaves out memory that does not depend on the network, which would distort it for small networks.
"""

from __future__ import annotations

from typing import Final

CONTEXT_BYTES: Final = 1 << 30
BYTES_PER_PARAMETER: Final = 16
BYTES_PER_MULT_ADD: Final = 1
WORKSPACES_BYTES: Final = 128 << 20
"""Held by cuBLAS and cuDNN in torch's allocator for any network; part of the context."""
MIN_MEASURED_SHARE: Final = 0.1
MEASURED_SHARE_MARGIN: Final = 1.15
"""A factor on top of a measured share: the next network may reuse its memory less well."""


def variable_bytes(params: int, mult_adds: int, batch_size: int) -> int:
    """Return the estimated bytes of a training beyond a context."""
    return BYTES_PER_PARAMETER * params + BYTES_PER_MULT_ADD * mult_adds * batch_size


def measured_share_of_estimate(
    *, peak_bytes: int, images_bytes: int, params: int, mult_adds: int, batch_size: int
) -> float:
    """Return the share of the estimate that a training used; `images_bytes` of the peak held the data set."""
    used_bytes = peak_bytes - images_bytes - WORKSPACES_BYTES
    return max(MIN_MEASURED_SHARE, used_bytes / variable_bytes(params, mult_adds, batch_size))


def expected_bytes(params: int, mult_adds: int, batch_size: int, measured_share: float | None) -> int:
    """Return the expected bytes of a training beyond a context; `measured_share` is the largest of its search."""
    return int(_corrected(measured_share) * variable_bytes(params, mult_adds, batch_size))


def max_variable_bytes(free_bytes: int, measured_share: float | None) -> int:
    """Return the `variable_bytes` of the largest training that fits into `free_bytes` together with its context."""
    return max(0, int((free_bytes - CONTEXT_BYTES) / _corrected(measured_share)))


def _corrected(measured_share: float | None) -> float:
    return 1.0 if measured_share is None else measured_share * MEASURED_SHARE_MARGIN
