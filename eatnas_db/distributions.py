"""The two distributions of this package, and the error for a missing module that only the larger distribution installs.

`eatnas-db-core` has everything but the training, and installs neither PyTorch nor MLflow. `eatnas-db` adds both.
"""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from typing import Final

from eatnas_db.errors import MissingPackageError

WHOLE: Final = "eatnas-db"
CORE: Final = "eatnas-db-core"
TRAINING: Final = "eatnas_training"

INSTALLED_BY: Final = {
    **dict.fromkeys(
        (TRAINING, "matplotlib", "mlflow", "numpy", "pandas", "PIL", "safetensors", "scipy", "sklearn", "torch"), WHOLE
    ),
    "mcp": f"{CORE}[mcp]",
    "pyarrow": f"{CORE}[parquet]",
    "ray": f"{WHOLE}[ray]",
    "plotly": f"{CORE}[report]",
    "psycopg": f"{CORE}[postgres]",
    "starlette": f"{CORE}[serve]",
    "uvicorn": f"{CORE}[serve]",
}
"""The modules that `eatnas-db-core` may lack, and the requirement that installs each module."""


def explain_missing_module(error: ModuleNotFoundError) -> MissingPackageError | None:
    """Return an error that names the requirement to install, or None if `eatnas-db` does not depend on the module."""
    module = (error.name or "").partition(".")[0]
    return _missing(module) if module in INSTALLED_BY else None


def require_module(module: str) -> None:
    """Raise `MissingPackageError` unless this module, a key of `INSTALLED_BY`, is installed."""
    if importlib.util.find_spec(module) is None:
        raise _missing(module)


def installed_versions() -> dict[str, str]:
    """Return the versions of the installed distributions, `eatnas-db` first."""
    # Import `importlib.metadata` only here, because loading it takes half as long as loading typer.
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in (WHOLE, CORE):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _missing(module: str) -> MissingPackageError:
    return MissingPackageError(
        f"this command needs {module}, which is not installed; run `pip install '{INSTALLED_BY[module]}'`"
    )
