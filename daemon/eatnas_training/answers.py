"""The answer of a program on stdout, apart from what libraries and data sets print there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any


def take_stdout() -> Callable[[Any], None]:
    """Return a function that writes an answer as JSON to the present stdout; all other output now goes to stderr."""
    answer_fd = os.dup(1)
    os.dup2(2, 1)

    def write(answer: Any) -> None:
        with os.fdopen(answer_fd, "w", encoding="utf-8") as output:
            json.dump(answer, output)

    return write
