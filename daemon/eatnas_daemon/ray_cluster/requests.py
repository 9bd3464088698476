"""The packets between the daemon and its bridge to a Ray cluster. Each packet of the socket is a JSON object."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

PACKET_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class WorkerNeeds:
    """The resources that each worker occupies on a node: CPUs, and a GPU or a part of a GPU."""

    cpus: float = 1.0
    gpus: float = 0.0

    def __str__(self) -> str:
        cpus = f"{self.cpus:g} CPU{'' if self.cpus == 1 else 's'}"
        return f"{cpus} and {self.gpus:g} GPU" if self.gpus else cpus

    def count_workers(self, cpus: float, gpus: float) -> int:
        """Return the number of workers for which a node with these resources has room."""
        # A worker needs its share on a single GPU, so the remainders of two GPUs cannot be combined.
        by_gpus = int(gpus + 1e-6) * int((1 + 1e-6) / self.gpus) if self.gpus else None
        by_cpus = int((cpus + 1e-6) / self.cpus) if self.cpus else None
        counts = [count for count in (by_gpus, by_cpus) if count is not None]
        return min(counts, default=0)


def new_socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets that preserve packet boundaries and notice when the other socket is closed. Linux
    only.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_packet(end: socket.socket, content: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send an object, with file descriptors. Raises `OSError`."""
    socket.send_fds(end, [json.dumps(content).encode()], list(fds))


def receive_packet(end: socket.socket, fds: int = 0) -> tuple[dict[str, Any], list[int]]:
    """Return the next object with up to `fds` file descriptors.

    Raises `BlockingIOError` if no object has arrived, and `EOFError` if the other end is closed.
    """
    try:
        content, received, _, _ = socket.recv_fds(end, PACKET_BYTES, fds)
    except ConnectionError:
        raise EOFError from None
    if not content:
        raise EOFError
    packet: dict[str, Any] = json.loads(content)
    return packet, received


def send_if_possible(end: socket.socket, content: dict[str, Any]) -> None:
    """Send an object. Drop the object if the other end is closed or reads nothing."""
    with suppress(OSError):
        send_packet(end, content)
