"""Run a function as a program: print its result as JSON on stdout. If the user can fix an error, print one line on
stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import torch

from eatnas_db.errors import EatnasError
from eatnas_db.garbage_collection import skip_last_collection
from eatnas_db.text_encoding import escape_controls
from eatnas_training.answers import take_stdout

SMALL_WORK: Final = 2e10
"""The mult-adds that one core computes in about a second."""


def limit_threads(mult_adds: float) -> None:
    """Use one thread for small work, for which several threads would wait longer than they compute."""
    if mult_adds <= SMALL_WORK:
        torch.set_num_threads(1)


def run_program(main: Callable[[], Any]) -> None:
    """Print the result of `main` and exit with 0, or print its error and exit with 1."""
    skip_last_collection()
    write_answer = take_stdout()
    try:
        result = main()
    except EatnasError as error:
        print(escape_controls(str(error)), file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        print(escape_controls(f"cannot write or read{place}: {error.strerror or error}"), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    write_answer(result)
