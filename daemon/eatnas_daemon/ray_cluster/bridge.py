"""`python -m eatnas_daemon.ray_cluster.bridge`: the one process of a daemon that talks to Ray.

The bridge asks Ray for an actor for each worker that the daemon starts, and copies bytes between the pipes of the
daemon and of the worker. When the bridge ends, Ray ends its actors. The bridge ends when the daemon ends, or when the
cluster no longer knows the bridge.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Any, Final

import ray

from eatnas_daemon.ray_cluster import remote_worker
from eatnas_daemon.ray_cluster.descriptors import allow_many_files, readable
from eatnas_daemon.ray_cluster.relay import Actors, Relay
from eatnas_daemon.ray_cluster.requests import WorkerNeeds, receive_packet, send_if_possible
from eatnas_daemon.ray_cluster.versions import describe_connection_error

POLL_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 10.0
"""The seconds without an answer after which the head counts as gone."""
CLOSE_SECONDS: Final = 5.0
REFUSAL_SECONDS: Final = 60.0
"""The seconds for which a node that has refused a worker gets no other worker."""
TOO_MANY_FILES: Final = "the bridge to the Ray cluster has too many open files; raise `ulimit -n` for the daemon"


class Bridge:
    """The workers of a daemon in a Ray cluster."""

    def __init__(self, control: socket.socket, address: str, needs: WorkerNeeds) -> None:
        self._control, self._address, self._needs = control, address, needs
        control.setblocking(False)
        self._relays: set[asyncio.Task[None]] = set()
        self._refused_until: dict[str, float] = {}
        self._context = ray.get_runtime_context()
        self._actors = Actors(self._new_actor, ray.kill)

    async def run(self) -> None:
        """Start the workers that the daemon requests, until the daemon ends or the cluster is replaced."""
        tasks = [asyncio.create_task(self._accept()), asyncio.create_task(self._watch_cluster())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _accept(self) -> None:
        while True:
            await readable(self._control.fileno())
            try:
                request, fds = receive_packet(self._control, 3)
            except BlockingIOError:
                continue
            except EOFError:
                return
            if len(fds) < 3:
                _refuse(fds)
                continue
            relay = Relay(request, socket.socket(fileno=fds[0]), fds[1], fds[2], self._actors)
            task = asyncio.create_task(self._relay(relay))
            self._relays.add(task)
            task.add_done_callback(self._relays.discard)

    async def _relay(self, relay: Relay) -> None:
        await relay.run()
        if relay.refused_by is not None:
            self._refused_until[relay.refused_by] = time.monotonic() + REFUSAL_SECONDS

    def _new_actor(self) -> tuple[Any, float | None]:
        """Request an actor from Ray. A pending actor makes Ray's autoscaler add nodes. The actor is not placed on nodes
        that have refused workers. Return the actor, and the seconds after which to request another actor.
        """
        now = time.monotonic()
        refused = [node for node, until in self._refused_until.items() if until > now]
        options: dict[str, Any] = {"label_selector": {"ray.io/node-id": f"!in({','.join(refused)})"}} if refused else {}
        actor_class = ray.remote(remote_worker.RemoteWorker)
        actor = actor_class.options(
            num_cpus=self._needs.cpus, num_gpus=self._needs.gpus, max_concurrency=4, max_restarts=0, **options
        ).remote()
        return actor, REFUSAL_SECONDS if refused else None

    async def _watch_cluster(self) -> None:
        """Report the size of the cluster.

        Return when another cluster has replaced this one, so that this process's node no longer belongs to the cluster.
        """
        own_node, gcs = self._context.get_node_id(), self._context.gcs_address
        silent_since: float | None = None
        query: asyncio.Task[list[dict[str, Any]]] | None = None
        while True:
            query = query or asyncio.create_task(asyncio.to_thread(ray.nodes))
            await asyncio.wait([query], timeout=ANSWER_SECONDS)
            reachable = await asyncio.to_thread(_connects, gcs)
            if not reachable or not query.done() or query.exception() is not None:
                silent_since = silent_since or time.monotonic()
                seconds = time.monotonic() - silent_since
                send_if_possible(self._control, {"problem": f"the Ray head at {gcs} does not answer", "for": seconds})
                query = None if query.done() else query
            else:
                alive = [node for node in query.result() if node["Alive"]]
                if own_node not in {node["NodeID"] for node in alive}:
                    return
                silent_since, query = None, None
                send_if_possible(self._control, {"nodes": [_resources(node, self._needs) for node in alive]})
            await asyncio.sleep(POLL_SECONDS)


def _refuse(fds: list[int]) -> None:
    """Refuse a request whose file descriptors this process could not receive."""
    if fds:
        with socket.socket(fileno=fds.pop(0)) as control:
            send_if_possible(control, {"exit_status": 1, "reason": TOO_MANY_FILES})
    for descriptor in fds:
        os.close(descriptor)


def _resources(node: dict[str, Any], needs: WorkerNeeds) -> dict[str, Any]:
    cpus, gpus = node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)
    return {"cpus": cpus, "gpus": gpus, "workers": needs.count_workers(cpus, gpus)}


def _connects(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def _connect(control: socket.socket, address: str) -> bool:
    """Connect to the cluster. If this fails, report the problem to the daemon and return False."""
    try:
        if address != "auto":
            # Check the address first, because Ray itself would try to connect for minutes.
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False, namespace="eatnas-db")
    except (Exception, SystemExit) as error:
        send_if_possible(control, {"problem": describe_connection_error(error, address)})
        return False
    return True


def _exit_with_daemon(control: socket.socket) -> None:
    """Exit soon after the daemon has closed its socket, even if Ray blocks the main thread."""
    poll = select.poll()
    poll.register(control, select.POLLHUP)
    while not any(event & select.POLLHUP for _, event in poll.poll()):
        pass
    time.sleep(CLOSE_SECONDS)
    os._exit(0)


def main() -> int:
    """Connect to the cluster and serve the daemon."""
    parser = argparse.ArgumentParser(prog="eatnas_daemon.ray_cluster.bridge", description=__doc__)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--cpus", type=float, required=True)
    parser.add_argument("--gpus", type=float, required=True)
    options = parser.parse_args()
    control = socket.socket(fileno=options.control_fd)
    threading.Thread(target=_exit_with_daemon, args=[control], daemon=True).start()
    allow_many_files()
    if not _connect(control, options.address):
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ignore signals to the process group. They also reach the daemon, which ends the bridge after its workers have
        # checkpointed.
        signal.signal(number, signal.SIG_IGN)
    ray.cloudpickle.register_pickle_by_value(remote_worker)
    bridge = Bridge(control, options.address, WorkerNeeds(options.cpus, options.gpus))
    asyncio.run(bridge.run())
    # Exit even if the shutdown blocks. Ray then ends the actors of this process.
    threading.Timer(CLOSE_SECONDS, os._exit, [0]).start()
    ray.shutdown()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
