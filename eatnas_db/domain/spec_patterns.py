"""The regular expressions of names in a spec, and their descriptions for errors."""

from __future__ import annotations

from typing import Final

from eatnas_db.domain.objective import METRIC_PATTERN

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
PROGRAM_PATTERN: Final = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
DESCRIPTIONS: Final = {
    NAME_PATTERN: "1 to 64 ASCII letters, digits, `_`, `.` and `-` that begin with a letter or a digit",
    METRIC_PATTERN: "1 to 32 ASCII letters, digits, `_`, `.` and `-` that begin with a letter or `_`",
    PROGRAM_PATTERN: "module:function, for example my_package.train:train",
}
"""The texts that match a pattern, in words."""
