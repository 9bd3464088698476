"""Encode and decode messages on a pipe: a big-endian length of four bytes, then the JSON array `[class name, fields]`.

Messages use two separate pipes of each worker, because the worker's stdout and stderr carry the candidate's log.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from typing import Any, Final, get_args

from eatnas_protocol.long_texts import shorten_middle
from eatnas_protocol.messages import Message

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
_LENGTH: Final = struct.Struct("!I")
_MESSAGE_TYPES: Final[dict[str, type[Any]]] = {kind.__name__: kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    """Return the message with its length prefix."""
    body = json.dumps([type(message).__name__, asdict(message)]).encode()
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Assembles messages from the chunks that a pipe delivers."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[Message]:
        """Return the messages that this chunk completes. Raises `ValueError` on an invalid message."""
        self._buffer += chunk
        messages: list[Message] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of {length} bytes exceeds the limit of {MAX_MESSAGE_BYTES} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(_decode(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return messages


def _decode(body: bytes) -> Message:
    try:
        name, fields = json.loads(body)
        message: Message = _MESSAGE_TYPES[name](**fields)
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"invalid message {shorten_middle(repr(body))}") from error
    return message
