"""Format times, durations, sizes and nested settings as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

GIB: Final = 1 << 30


def format_time(seconds: float) -> str:
    """Format a Unix time in UTC, as in `2026-01-31 12:00:00`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def format_duration(seconds: float) -> str:
    """Format a duration as hours, minutes and seconds, as in `0:01:05` and `1 day, 2:00:00`."""
    return str(timedelta(seconds=round(seconds)))


def format_number(value: float) -> str:
    """Format an integer with all digits, and another number with six significant digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def format_size(size: int) -> str:
    """Format a number of bytes with a decimal unit, as in `1.5 kB`."""
    from rich.filesize import decimal  # imported here, because quick commands do not need rich

    return decimal(size)


def format_gib(size: int) -> str:
    """Format a number of bytes in GiB, as in `1.5 GiB`."""
    return f"{size / GIB:.1f} GiB"


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
