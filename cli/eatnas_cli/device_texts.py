"""Describe the memory and the activity of a device."""

from __future__ import annotations

from eatnas_db.queries.hosts import RecordedDevice
from eatnas_report.formats import GIB, format_gib, format_time


def describe_memory(device: RecordedDevice) -> str:
    """Return the used and the total memory as text, or an empty string if either is unknown."""
    if device.used_bytes is None or not device.total_bytes:
        return ""
    return f"{device.used_bytes / GIB:.1f} of {format_gib(device.total_bytes)}"


def describe_state(device: RecordedDevice, trainings: int, *, is_supervised: bool) -> str:
    """Describe the activity of a device, or the reason why it is idle."""
    if trainings:
        return f"{trainings} in training"
    if device.paused_at is not None:
        return f"paused manually since {format_time(device.paused_at)}"
    if not is_supervised:
        return "no daemon is running"
    return f"waits: {device.waits}" if device.waits else "free"
