"""Find the file system that holds a file, using the list of mounts in `/proc/self/mountinfo` or `/proc/mounts`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class _Mount:
    point: Path
    kind: str
    parent: str
    """The id of the parent mount; empty if the list does not contain ids."""


def find_file_system(file: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the type of the file system that holds `file`, or None if the list of mounts cannot tell."""
    try:
        target = file.resolve()  # before the list is read, because resolving the path may mount a file system
    except (OSError, RuntimeError):  # a loop of links, for example
        target = Path(os.path.abspath(file))  # noqa: PTH100
    try:
        content = mounts.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    found = list(_parse_mounts(content))
    holding = [
        (len(mount.point.parts), number)
        for number, mount in enumerate(found)
        if target.is_relative_to(mount.point) and not _is_hidden(mount, found[number + 1 :])
    ]
    # If a folder has several mounts, the last one counts.
    return found[max(holding)[1]].kind if holding else None


def _parse_mounts(content: str) -> Iterator[_Mount]:
    for line in content.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if separator and len(fields) >= 6 and fields[0].isdigit() and after:
            yield _Mount(_unescape(fields[4]), after.split(" ")[0], fields[1])
        elif len(fields := line.split(" ")) >= 4:
            yield _Mount(_unescape(fields[1]), fields[2], "")


def _unescape(text: str) -> Path:
    # The kernel writes a space as \040.
    return Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text))


def _is_hidden(mount: _Mount, later: Sequence[_Mount]) -> bool:
    """Return whether a later mount on a parent folder hides this mount."""
    return mount.parent != "" and any(
        other.parent == mount.parent and other.point != mount.point and mount.point.is_relative_to(other.point)
        for other in later
    )
