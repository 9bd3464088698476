"""Store the latest problem with MLflow in a file that `daemon status` and `doctor` read."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from eatnas_db.atomic_files import atomic_write
from eatnas_db.settings import Settings


@dataclass(frozen=True, slots=True)
class MlflowProblem:
    """A problem, and the Unix time at which it began."""

    message: str
    since_at: float


def problem_file(settings: Settings) -> Path:
    """Return the file with a home's latest problem with MLflow. The file exists only while there is a problem."""
    return settings.logs / "mlflow-problem.json"


def read_problem(settings: Settings) -> MlflowProblem | None:
    """Return the current problem of the process that writes to MLflow; None if it has no problem."""
    try:
        content = json.loads(problem_file(settings).read_text(encoding="utf-8"))
        return MlflowProblem(message=str(content["message"]), since_at=float(content["since_at"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record_problem(file: Path, message: str) -> None:
    """Store a problem. Ignores a full disk, because the search must continue."""
    with suppress(OSError), atomic_write(file) as opened:
        opened.write(json.dumps(asdict(MlflowProblem(message, time.time()))).encode())


def clear_problem(file: Path) -> None:
    """Delete the file when the problem is solved."""
    with suppress(OSError):
        file.unlink(missing_ok=True)
