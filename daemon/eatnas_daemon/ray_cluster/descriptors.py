"""Wait for file descriptors in an event loop."""

from __future__ import annotations

import asyncio
import os


async def readable(descriptor: int) -> None:
    """Return when a descriptor has something to read, or its other end is closed."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Return when a descriptor takes bytes, or its other end is closed."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_writer(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_writer(descriptor)


async def write_all(descriptor: int, content: bytes) -> None:
    """Write to a non-blocking descriptor. Raises `BrokenPipeError` if its other end is closed."""
    while content:
        try:
            content = content[os.write(descriptor, content) :]
        except BlockingIOError:
            await writable(descriptor)
