"""Run a function as a program: its result is JSON on stdout, and an error that a user can fix is one line on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, Final

import torch

from eatnas_db.errors import EatnasError

SMALL_WORK: Final = 2e10
"""Mult-adds that one core computes in about a second."""


def limit_threads(mult_adds: float) -> None:
    """Compute on one core if the work is small: waiting for each other would take the threads longer than the work."""
    if mult_adds <= SMALL_WORK:
        torch.set_num_threads(1)


def run_program(main: Callable[[], Any]) -> None:
    """Print the result of `main` and exit with 0, or print its error and exit with 1."""
    # What libraries print on stdout must not mix with the answer.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        result = main()
    except EatnasError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        print(f"cannot write or read{place}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    with answer:
        json.dump(result, answer)
