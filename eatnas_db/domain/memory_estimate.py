"""How much of a GPU's memory a training takes, foretold before any has run there. Pure, and generous on purpose.

    bytes = CONTEXT + 16 · parameters + mult-adds · batch

- CONTEXT: what CUDA, cuDNN and a few kernels take before the first tensor, and cuBLAS for its workspaces.
- 16 bytes a parameter: the weight, its gradient, its momentum, and one more of them in between.
- One byte for each mult-add of each image in a batch: what is kept for the way back. Measured on the networks of the
  built-in spaces that is less than half a byte; the rest is for workspaces and what an allocator cannot reuse.

Once trainings have ended, the most that one took of its own foretelling corrects all further ones. What does not
depend on the network is left out of that: by a small network it would be taken for a multiple.
"""

from __future__ import annotations

from typing import Final

CONTEXT_BYTES: Final = 1 << 30
BYTES_PER_PARAMETER: Final = 16
BYTES_PER_MULT_ADD: Final = 1
WORKSPACES_BYTES: Final = 128 << 20
"""What cuBLAS and cuDNN hold in torch's allocator, whatever the network; a part of the context."""
LEAST_SHARE: Final = 0.1
MARGIN: Final = 1.15
"""On top of a measured share: the next network may reuse its memory less well."""


def variable_bytes(params: int, mult_adds: int, batch_size: int) -> int:
    """What a training takes beyond a context, as foretold."""
    return BYTES_PER_PARAMETER * params + BYTES_PER_MULT_ADD * mult_adds * batch_size


def share_of_foretold(peak_bytes: int, images_bytes: int, params: int, mult_adds: int, batch_size: int) -> float:
    """How much of what was foretold a training has really taken: `peak_bytes`, of which `images_bytes` were images."""
    taken = peak_bytes - images_bytes - WORKSPACES_BYTES
    return max(LEAST_SHARE, taken / variable_bytes(params, mult_adds, batch_size))


def expected_bytes(params: int, mult_adds: int, batch_size: int, measured_share: float | None) -> int:
    """What a training will take beyond a context; `measured_share` is the largest so far of its search."""
    return int(_share(measured_share) * variable_bytes(params, mult_adds, batch_size))


def largest_that_fits(free_bytes: int, measured_share: float | None) -> int:
    """The `variable_bytes` of the largest training that fits into so much memory beside its context."""
    return max(0, int((free_bytes - CONTEXT_BYTES) / _share(measured_share)))


def _share(measured_share: float | None) -> float:
    return 1.0 if measured_share is None else measured_share * MARGIN
