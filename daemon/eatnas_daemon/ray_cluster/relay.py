"""Copy bytes between the daemon's pipes for one worker and the actor that holds the worker.

This module uses Ray only through actors whose methods return awaitables, so that tests need no cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from eatnas_daemon.ray_cluster.descriptors import readable, writable, write_all
from eatnas_daemon.ray_cluster.requests import receive_packet, send_if_possible, send_packet

CHUNK_BYTES: Final = 1 << 16
READ_SECONDS: Final = 1.0
"""If the worker writes nothing for this many seconds, the actor answers without output."""
SILENT_SECONDS: Final = 10.0
"""An actor that has not answered for this long is reported to the daemon as silent."""
KILL_SECONDS: Final = 2.0


class ActorLostError(Exception):
    """The actor, and the worker in it, have ended."""


@dataclass(frozen=True, slots=True)
class Actors:
    """The functions of the cluster that a relay uses.

    `start` returns a new actor, and the seconds after which to request another actor if this one is still pending.
    `kill` ends an actor, and may block.
    """

    start: Callable[[], tuple[Any, float | None]]
    kill: Callable[[Any], None]


class Relay:
    """The connection to one worker: its actor, its two pipes, and the socket that reports its state to the daemon."""

    def __init__(
        self, request: dict[str, Any], control: socket.socket, command_fd: int, report_fd: int, actors: Actors
    ) -> None:
        self._request, self._control = request, control
        self._command_fd, self._report_fd = command_fd, report_fd
        control.setblocking(False)
        for descriptor in (command_fd, report_fd):
            os.set_blocking(descriptor, False)
        self._actors = actors
        self._actor: Any = None
        self._node, self._started = "a node that is not known yet", False
        self.refused_by: str | None = None
        """The id of the node that refused the worker; None if no node has refused it."""

    async def run(self) -> None:
        """Start the worker in an actor, and copy bytes until either side ends."""
        ended: dict[str, Any] = {"exit_status": -signal.SIGKILL, "reason": None}
        work = asyncio.create_task(self._work())
        killed = asyncio.create_task(self._wait_for_kill())
        try:
            await asyncio.wait([work, killed], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                ended = work.result()
        except Exception as error:
            # Catch every exception, because the daemon must get the reason in any case.
            ended["reason"] = self._describe_loss(error)
        finally:
            for task in (work, killed):
                task.cancel()
            await asyncio.gather(work, killed, return_exceptions=True)
            await self._kill_actor()
            await self._report_end(ended)

    async def _work(self) -> dict[str, Any]:
        started = await self._start()
        if "refused" in started:
            self.refused_by = started["node_id"]
            reason = f"the Ray node {started['node']} refused a worker: {started['refused']}"
            return {"exit_status": 1, "reason": reason}
        self._started = True
        send_if_possible(self._control, started)
        commands = asyncio.create_task(self._copy_commands())
        try:
            await self._copy_reports()
        finally:
            commands.cancel()
        return {"exit_status": await self._answer_or_report_silence(self._actor.finish.remote())}

    async def _start(self) -> dict[str, Any]:
        while True:
            self._actor, seconds = self._actors.start()
            with contextlib.suppress(TimeoutError):
                self._node = await asyncio.wait_for(_answer(self._actor.locate.remote()), seconds)
                break
            await self._end_actor()
        # From now on, the worker is no longer pending, and a start that takes too long counts as a fault of the node.
        send_if_possible(self._control, {"node": self._node})
        return dict(await self._answer_or_report_silence(self._actor.start.remote(self._request)))

    async def _copy_commands(self) -> None:
        """Copy the daemon's commands to the worker."""
        with contextlib.suppress(ActorLostError):  # `_copy_reports` gets the same error
            while True:
                await readable(self._command_fd)
                content = os.read(self._command_fd, CHUNK_BYTES)
                await _answer(self._actor.write.remote(content))
                if not content:
                    return

    async def _copy_reports(self) -> None:
        """Copy the worker's reports to the daemon until the worker closes its pipe."""
        while True:
            content, state = await self._answer_or_report_silence(self._actor.read.remote(READ_SECONDS))
            send_if_possible(self._control, {**state, "silent_seconds": 0.0})
            if content == b"":
                return
            if content is not None:
                # Ignore a closed pipe: the daemon closes its end only after it has killed the worker.
                with contextlib.suppress(BrokenPipeError):
                    await write_all(self._report_fd, content)

    async def _answer_or_report_silence(self, reference: Awaitable[Any]) -> Any:
        """Return the answer of the actor. If the answer takes long, report the waiting time to the daemon."""
        answer, asked_at = asyncio.ensure_future(_answer(reference)), time.monotonic()
        try:
            while not (await asyncio.wait([answer], timeout=SILENT_SECONDS))[0]:
                send_if_possible(self._control, {"silent_seconds": time.monotonic() - asked_at})
            return answer.result()
        finally:
            answer.cancel()

    async def _wait_for_kill(self) -> None:
        """Return as soon as the daemon asks to kill the worker, or has closed its end of the socket."""
        while True:
            await readable(self._control.fileno())
            with contextlib.suppress(BlockingIOError):
                try:
                    packet, _ = receive_packet(self._control)
                except EOFError:
                    return
                if packet.get("kill"):
                    return

    async def _kill_actor(self) -> None:
        """End the worker with its descendants, and then the actor. This also ends a frozen or pending actor."""
        if self._started:
            with contextlib.suppress(TimeoutError, ActorLostError):
                await asyncio.wait_for(_answer(self._actor.kill.remote()), KILL_SECONDS)
        await self._end_actor()

    async def _end_actor(self) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(asyncio.to_thread(self._actors.kill, self._actor), KILL_SECONDS)

    async def _report_end(self, ended: dict[str, Any]) -> None:
        # A lost state is replaced by a later one. The report of the end, however, must arrive even if the daemon has
        # read nothing for a long time.
        with contextlib.suppress(OSError):
            while True:
                try:
                    send_packet(self._control, ended)
                    break
                except BlockingIOError:
                    await writable(self._control.fileno())
        for descriptor in (self._command_fd, self._report_fd):
            os.close(descriptor)
        self._control.close()

    def _describe_loss(self, error: Exception) -> str:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = next((line for line in lines if line.startswith("The actor")), lines[0] if lines else "no reason given")
        return f"the Ray actor of the worker on {self._node} ended: {text[:300]}"


async def _answer(reference: Awaitable[Any]) -> Any:
    """Return the result of a method call on an actor. Raises `ActorLostError` if the actor is gone."""
    try:
        return await reference
    except Exception as error:
        raise ActorLostError(str(error)) from error
