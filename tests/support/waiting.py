"""Wait for conditions that other processes fulfil."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], seconds: float = 200.0) -> T:
    """Call `condition` until it returns a true value, and return that value. Fail after `seconds`.

    The pauses between the calls become longer, because costly calls slow down the processes that the test waits for.
    """
    deadline, pause = time.monotonic() + seconds, 0.02
    while not (value := condition()):
        assert time.monotonic() < deadline, f"the condition did not become true within {seconds:g} seconds"
        time.sleep(pause)
        pause = min(0.2, 1.2 * pause)
    return value
