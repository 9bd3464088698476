"""Start programs of this package with the running Python interpreter."""

from __future__ import annotations

import sys
from typing import Final

SAFE_PATH: Final = "-P"
"""Python's option that keeps the working folder out of `sys.path`.

Without this option, a user's own `random.py` in that folder would replace Python's module. PYTHONPATH and editable
installs still work.
"""


def python_command(*arguments: str) -> list[str]:
    """Return the command that runs the interpreter with these arguments, for example `-m module`."""
    return [sys.executable, SAFE_PATH, *arguments]
