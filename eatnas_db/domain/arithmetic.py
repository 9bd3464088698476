"""The arithmetic of a recipe: environment variables of workers that fix the kernels of torch, oneDNN and MKL.

The libraries read these variables when they are loaded, so the arithmetic of a worker process never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

NATIVE: Final = "native"
PORTABLE: Final = "portable"

PORTABLE_SETTINGS: Final = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
"""These variables limit the libraries to instructions that x86-64 processors have had since 2013, and set MKL's mode
for equal results on Intel and AMD.
"""

FIXED_SETTINGS: Final = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NVIDIA_TF32_OVERRIDE": "0"}
"""Environment variables that every worker starts with. The first makes cuBLAS deterministic; the second turns TF32 off.
"""

FAST_MATH: Final = (
    *("DNNL_DEFAULT_FPMATH_MODE", "MKL_BLAS_COMPUTE_MODE", "ONEDNN_DEFAULT_FPMATH_MODE"),
    *("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_CUDNN_ALLOW_TF32"),
)
"""Environment variables that reduce the precision of float32 arithmetic. The daemon does not pass them to workers."""

SETTINGS: Final = (
    *PORTABLE_SETTINGS,
    *("DNNL_CPU_ISA_HINTS", "DNNL_MAX_CPU_ISA", "GLIBC_TUNABLES", "MKL_DEBUG_CPU_TYPE", "MKL_DISABLE_FAST_MM"),
    *("MKL_ENABLE_INSTRUCTIONS", "ONEDNN_CPU_ISA_HINTS", "TORCH_CUDNN_USE_HEURISTIC_MODE_B"),
    "TORCH_CUDNN_V8_API_DISABLED",
)
"""The variables that the daemon removes or fixes for workers with portable arithmetic.

Workers with native arithmetic keep these variables, and the record stores them with scores.
"""


def arithmetic_of(spec: Mapping[str, Any]) -> str:
    """Return the arithmetic of a stored spec."""
    return str(spec["training"].get("arithmetic", NATIVE))


def worker_variables(environment: Mapping[str, str], arithmetic: str) -> dict[str, str]:
    """Return the environment of a worker, derived from the environment of the process that starts it."""
    removed = {*FAST_MATH, *(SETTINGS if arithmetic == PORTABLE else ())}
    kept = {name: value for name, value in environment.items() if name not in removed}
    return {**kept, **added_settings(arithmetic)}


def added_settings(arithmetic: str) -> dict[str, str]:
    """Return the environment variables that every worker with this arithmetic has."""
    return {**FIXED_SETTINGS, **(PORTABLE_SETTINGS if arithmetic == PORTABLE else {})}


def recorded_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a worker's environment that may change the bits of its results."""
    return {name: environment[name] for name in sorted(SETTINGS) if name in environment}


def is_portable(environment: Mapping[str, str]) -> bool:
    """Return whether a worker with this environment computes with portable arithmetic."""
    return recorded_settings(environment) == PORTABLE_SETTINGS
