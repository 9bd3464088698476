"""Keep the newest answers of the server, so that several readers of one version cause only one read of the record."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

MAX_ANSWERS: Final = 48
"""The maximum number of answers that are kept. An answer takes at most a few hundred kilobytes."""


class TaggedBody(NamedTuple):
    """An answer, and the tag of the version of the record that the answer shows."""

    tag: str
    body: str


@dataclass(eq=False, slots=True)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    body: str | None = None


class AnswerCache:
    """The most recently requested answers, keyed by their tags."""

    def __init__(self, size: int = MAX_ANSWERS) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def read(self, tag: str, build: Callable[[], TaggedBody]) -> str:
        """Return the answer for the version `tag`. The first reader builds the answer, and concurrent readers wait for
        it.

        If the record has changed since `tag` was read, the answer shows a newer version. Such an answer is returned but
        not kept.
        """
        with self._lock:
            entry = self._entries.setdefault(tag, _Entry())
            self._entries.move_to_end(tag)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
        with entry.lock:
            if entry.body is not None:
                return entry.body
            built = build()
            if built.tag == tag:
                entry.body = built.body
            return built.body
