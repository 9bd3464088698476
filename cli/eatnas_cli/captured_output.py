"""Capture the output of a command while other threads run other commands."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_lock = threading.Lock()
_captures = 0


class _ThreadOutput(io.TextIOBase):
    """A text stream that writes to the calling thread's own stream or, if it has none, to the original stream."""

    def __init__(self, original: TextIO) -> None:
        self.original = original
        self.streams = threading.local()

    def _stream(self) -> Any:
        return getattr(self.streams, "stream", self.original)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(self._stream().encoding)

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return str(self._stream().errors)

    @property
    def buffer(self) -> Any:
        return self._stream().buffer

    def write(self, text: str, /) -> int:
        return int(self._stream().write(text))

    def flush(self) -> None:
        self._stream().flush()

    def isatty(self) -> bool:
        return bool(self._stream().isatty())

    def writable(self) -> bool:
        return True


@contextmanager
def captured_output() -> Iterator[io.BytesIO]:
    """Collect the standard output of this thread as UTF-8, and discard its standard error."""
    written = io.BytesIO()
    outputs = _install()
    try:
        for output, target in zip(outputs, (written, io.BytesIO()), strict=True):
            # Set the encoding, because commands check the encoding of stdout.
            output.streams.stream = io.TextIOWrapper(target, encoding="utf-8", write_through=True)
        yield written
    finally:
        for output in outputs:
            # Detach the buffer from its wrapper, so that the buffer stays open and the caller can read it.
            output.streams.__dict__.pop("stream").detach()
        _uninstall()


def _install() -> tuple[_ThreadOutput, _ThreadOutput]:
    """Replace the standard streams of the process, unless another thread has already replaced them."""
    global _captures
    with _lock:
        _captures += 1
        if not isinstance(sys.stdout, _ThreadOutput):
            sys.stdout = _ThreadOutput(sys.stdout)
        if not isinstance(sys.stderr, _ThreadOutput):
            sys.stderr = _ThreadOutput(sys.stderr)
        return sys.stdout, sys.stderr


def _uninstall() -> None:
    global _captures
    with _lock:
        _captures -= 1
        if _captures == 0:
            assert isinstance(sys.stdout, _ThreadOutput)
            assert isinstance(sys.stderr, _ThreadOutput)
            sys.stdout, sys.stderr = sys.stdout.original, sys.stderr.original
