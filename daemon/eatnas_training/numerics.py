"""Choose deterministic arithmetic and its precision, by the settings of torch that determine the bits of a result."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from eatnas_db.domain.arithmetic import FAST_MATH, FIXED_SETTINGS

# Libraries read these variables at their first operation. Workers also get them from their daemon.
os.environ.update(FIXED_SETTINGS)
for _name in FAST_MATH:
    os.environ.pop(_name, None)


def use_deterministic_arithmetic(*, compiled: bool = False) -> None:
    """Make torch compute the same bits each time, in the precision of the recipe.

    With `compiled`, the same holds for code that torch compiles, which only plug-ins contain.
    """
    torch.set_deterministic_debug_mode("error")
    if compiled:
        # This call imports torch's compiler, which takes seconds and 150 MB.
        torch.use_deterministic_algorithms(True)
    # Do not fill new memory with NaN: this takes a tenth of the time of a step, and affects only code that reads
    # unwritten memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Disable TF32, which would be a third precision besides float32 and bfloat16. An environment variable can enable
    # TF32 for matrix products.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def resolve_precision(device: str, requested: str) -> str:
    """Return the precision of a recipe on a device, `float32` or `bfloat16`.

    A CUDA device that only emulates bfloat16 uses float32. `auto` is bfloat16 on CUDA and float32 on the CPU.
    """
    if requested == "float32" or torch.device(device).type != "cuda":
        # In measurements on CPUs, bfloat16 was slower for all but the largest networks.
        return "float32" if requested == "auto" else requested
    with torch.cuda.device(device):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return a context in which a network computes in `precision`.

    Weights, logits, loss and sums keep at least float32.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def require_avx2() -> None:
    """Raise `RuntimeError` if this processor lacks AVX2, which portable arithmetic needs."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.cpu._is_avx2_supported():
        raise RuntimeError(
            "training.arithmetic: portable needs an x86-64 processor with AVX2; this machine has no such "
            "processor, so use native"
        )
