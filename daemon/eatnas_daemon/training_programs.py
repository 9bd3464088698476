"""Run a program of the training package in a new process. The request and the answer are JSON."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from eatnas_db.distributions import TRAINING, require_module
from eatnas_db.errors import DataError
from eatnas_db.interpreter import python_command


class TrainingTimeoutError(DataError):
    """A program of the training package did not answer in time."""


def run_training_program(
    module: str,
    *arguments: str,
    request: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
    show_progress: bool = False,
) -> Any:
    """Run `python -m module` with `request` on its stdin and return the answer from its stdout.

    The variables in `environment` are added to the environment of this process; `timeout` is in seconds. With
    `show_progress`, the program writes its progress to stderr if stderr is a terminal; the program must have the option
    `--progress-fd`. Raises `MissingPackageError` if the training package is not installed. Raises `DataError` with the
    last line of the program's stderr if the program fails, and `TrainingTimeoutError` if it does not answer within
    `timeout`.
    """
    require_module(TRAINING)
    program = " ".join([module, *arguments])
    # Pass another descriptor for the progress, because the program's stderr is captured for its last line, the error.
    progress_fd = os.dup(2) if show_progress and os.isatty(2) else None
    options = [] if progress_fd is None else ["--progress-fd", str(progress_fd)]
    try:
        completed = subprocess.run(
            python_command("-m", module, *arguments, *options),
            input=json.dumps(request),
            env={**os.environ, **(environment or {})},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=timeout,
            pass_fds=() if progress_fd is None else (progress_fd,),
        )
    except subprocess.TimeoutExpired:
        raise TrainingTimeoutError(f"{program} did not answer within {timeout:g} s; try again") from None
    finally:
        if progress_fd is not None:
            os.close(progress_fd)
    if completed.returncode != 0:
        lines = completed.stderr.strip().splitlines()
        raise DataError(
            lines[-1]
            if lines
            else f"{program} exited with status {completed.returncode} without an error message; try again"
        )
    return json.loads(completed.stdout)
