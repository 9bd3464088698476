"""Files that are named like modules, as a user may have them in a working folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SHADOWED: Final = (
    "random",
    "json",
    "torch",
    "sqlalchemy",
    "mlflow",
    "uvicorn",
    "typer",
    "matplotlib",
    "yaml",
    "secrets",
)


def write_shadowing_files(folder: Path, trace: Path) -> None:
    """Write files that are named like modules. A program that imports one of them writes its name into `trace`."""
    for name in SHADOWED:
        (folder / f"{name}.py").write_text(f"open({str(trace)!r}, 'a').write('{name} ')\nraise SystemExit(9)\n")
