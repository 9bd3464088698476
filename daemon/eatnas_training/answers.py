"""Reserve stdout for the answer of a program, and send the output of libraries and data sets to stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any


def take_stdout() -> Callable[[Any], None]:
    """Return a function that writes an answer as JSON to the current stdout.

    After the call, all other output goes to stderr.
    """
    answer_fd = os.dup(1)
    os.dup2(2, 1)

    def write(answer: Any) -> None:
        with os.fdopen(answer_fd, "w", encoding="utf-8") as output:
            json.dump(answer, output)

    return write
