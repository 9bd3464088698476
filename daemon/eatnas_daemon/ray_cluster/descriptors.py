"""Wait for file descriptors in an event loop, and raise the limit on open files."""

from __future__ import annotations

import asyncio
import os
import resource
from contextlib import suppress


def allow_many_files() -> None:
    """Raise this process's limit on open files to the maximum: each worker needs three files and some connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def readable(descriptor: int) -> None:
    """Return as soon as a descriptor is readable, or its other end is closed."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Return as soon as a descriptor is writable, or its other end is closed."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_writer(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_writer(descriptor)


async def write_all(descriptor: int, content: bytes) -> None:
    """Write to a non-blocking descriptor. Raises `BrokenPipeError` if the other end is closed."""
    while content:
        try:
            content = content[os.write(descriptor, content) :]
        except BlockingIOError:
            await writable(descriptor)
