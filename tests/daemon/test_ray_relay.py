"""A bridge copies bytes between a daemon and an actor, and requests workers. These tests need no Ray."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import psutil
import pytest
from sqlalchemy import select
from test_remote_workers import request_for

from eatnas_daemon.devices.model import DeviceSnapshot
from eatnas_daemon.ray_cluster.bridge_process import ClusterNode
from eatnas_daemon.ray_cluster.cluster_scheduler import NO_CANDIDATE_WAITS, ClusterScheduler
from eatnas_daemon.ray_cluster.relay import Actors, Relay
from eatnas_daemon.ray_cluster.remote_process import RemoteWorkerProcess
from eatnas_daemon.ray_cluster.remote_worker import RemoteWorker
from eatnas_daemon.ray_cluster.requests import WorkerNeeds, new_socket_pair
from eatnas_daemon.workers.slots import Slot
from eatnas_daemon.workers.timeouts import DEFAULT_TIMEOUTS, Timeouts
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.hosts import worker
from support.searches import create_home, fetch_rows, supervise_search
from support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Ray clusters of eatnas-db need Linux")
BURST = 1_000_000
WRITE_BURST = (
    "import os, sys; fd = int(sys.argv[sys.argv.index('--out-fd') + 1]); left = 1_000_000\n"
    "while left: left -= os.write(fd, bytes(min(left, 99_999)))\n"
    "sys.exit(3)"
)


class LocalActor:
    """An actor in this process. Its methods run in threads, like the methods of Ray's actors."""

    def __init__(self, worker):
        self.worker, self.killed = worker, False

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *values: asyncio.to_thread(getattr(self.worker, name), *values))

    def end(self):
        self.killed = True
        for descriptor in (getattr(self.worker, "_command_fd", -1), getattr(self.worker, "_report_fd", -1)):
            if descriptor >= 0:
                os.close(descriptor)


def start_relay(request, worker):
    """Start a relay in a thread. Return the daemon's view of the worker, the actor, and the thread."""
    (worker_in, command_fd), (report_fd, worker_out) = os.pipe(), os.pipe()
    own, control = new_socket_pair()
    actor = LocalActor(worker)
    actors = Actors(lambda: (actor, None), lambda actor: actor.end())
    relay = Relay(request, control, worker_in, worker_out, actors)
    thread = threading.Thread(target=lambda: asyncio.run(relay.run()))
    thread.start()
    return RemoteWorkerProcess(own, command_fd, report_fd, on_gpu=False), actor, thread


def test_a_burst_larger_than_the_pipes_arrives_whole(tmp_path):
    open_before = psutil.Process().num_fds()
    for _ in range(3):
        remote, actor, thread = start_relay(request_for(tmp_path, program=["-c", WRITE_BURST]), RemoteWorker())
        os.set_blocking(remote.report_fd, True)
        received = 0
        while content := os.read(remote.report_fd, 50_000):
            received += len(content)
        assert received == BURST
        assert remote.close() == 3
        assert remote.loss_reason is None
        thread.join()
        assert actor.killed
    assert psutil.Process().num_fds() <= open_before  # fewer are open if files of earlier tests were closed meanwhile


class PendingWorker:
    """Waits for room on a node until the actor is killed."""

    def __init__(self):
        self.has_room = threading.Event()

    def locate(self):
        self.has_room.wait()
        return "n1"

    def start(self, request):
        raise RuntimeError("The actor died because its node has died.\nTraceback")


def test_a_pending_worker_is_cancelled_without_a_reason():
    pending = PendingWorker()
    remote, actor, thread = start_relay({}, pending)
    assert remote.pending
    remote.kill()
    eventually(lambda: actor.killed)
    pending.has_room.set()
    thread.join()
    assert remote.close() < 0
    assert remote.loss_reason is None


def test_a_node_that_is_lost_during_the_start_is_named():
    pending = PendingWorker()
    remote, _, thread = start_relay({}, pending)
    pending.has_room.set()
    thread.join()
    assert not remote.pending
    assert remote.close() < 0
    assert remote.loss_reason == ("the Ray actor of the worker on n1 ended: The actor died because its node has died.")


@dataclass
class QuietBridge:
    """A bridge to a cluster with the given nodes."""

    nodes: tuple[ClusterNode, ...] | None = field(default=(ClusterNode(4.0, 0.0, 4),))
    needs: WorkerNeeds = field(default_factory=WorkerNeeds)
    problem: str | None = None
    address: str = "h:1"

    def poll(self):
        """Nothing changes."""

    def close(self):
        """Do nothing, because there is nothing to close."""


@pytest.mark.parametrize(
    ("wanted", "demand", "slots"),
    [(None, None, 4), (None, 9, 4), (None, 2, 2), (None, 0, 0), (7, 9, 7), (7, 5, 5), (2, 0, 0), (7, None, 7)],
)
def test_a_cluster_is_asked_for_the_workers_that_candidates_need(wanted, demand, slots):
    scheduler, present = ClusterScheduler(QuietBridge(), wanted), []
    if demand is not None:
        scheduler.set_demand(demand)
    scheduler.update(present, frozenset(), DEFAULT_TIMEOUTS)
    assert len(present) == slots


def test_a_paused_gpu_is_not_the_only_slot():
    scheduler, paused = ClusterScheduler(QuietBridge(), None), DeviceSnapshot("GPU-a", "cuda", "H200")
    slots = [Slot(0, paused)]
    scheduler.set_demand(1)
    scheduler.update(slots, frozenset({"GPU-a"}), DEFAULT_TIMEOUTS)
    assert [slot.may_start for slot in slots] == [False, True]


def test_a_cancelled_worker_is_no_failed_start():
    scheduler, slots = ClusterScheduler(QuietBridge(), 1), []
    scheduler.set_demand(1)
    scheduler.update(slots, frozenset(), DEFAULT_TIMEOUTS)
    (slot,) = slots
    pending = PendingWorker()
    remote, _, thread = start_relay({}, pending)
    slot.start_worker(remote, 0.0)
    scheduler.set_demand(0)
    scheduler.update(slots, frozenset(), DEFAULT_TIMEOUTS)
    pending.has_room.set()
    thread.join()
    remote.close()
    slot.remove_worker(0.0, DEFAULT_TIMEOUTS)
    assert (slot.failed_starts, slot.start_error) == (0, None)
    scheduler.update(slots, frozenset(), DEFAULT_TIMEOUTS)
    assert slots == []


def test_workers_leave_when_no_candidate_waits(tmp_path):
    settings, counts = create_home(tmp_path / "home", budget__candidates=8), []

    def observe(supervisor):
        counts.append(len(supervisor.slots))
        if counts[-1] == 0 and max(counts) > 0:
            supervisor.stop()

    scheduler = ClusterScheduler(QuietBridge((ClusterNode(2.0, 0.0, 2),)), None, idle_seconds=0.1)
    timeouts = Timeouts(tick=0.1, database=0.1, device_check=0.05)
    supervise_search(settings, 0, only=None, gpu_scheduler=scheduler, on_tick=observe, timeouts=timeouts)
    assert (max(counts), counts[-1]) == (2, 0)
    assert {row.state for row in fetch_rows(settings, select(candidate.c.state))} == {"scored"}
    assert {row.ending for row in fetch_rows(settings, select(worker.c.ending))} == {NO_CANDIDATE_WAITS}
