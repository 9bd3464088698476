"""Searches in Ray's own cluster on this machine: nodes and heads come and go, and the history stays the same."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from sqlalchemy import func, select

from eatnas_daemon.ray_cluster.bridge_process import BridgeProcess
from eatnas_daemon.ray_cluster.requests import WorkerNeeds
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import attempt
from support.ray_clusters import local_cluster, supervise_in_cluster
from support.searches import create_home, fetch_rows, supervise_search
from support.simulated_worker import SIMULATED_WORKER
from support.waiting import eventually

pytest.importorskip("ray", reason="ray is not installed; `pip install 'eatnas-db[ray]'`")
# Ray starts about ten processes for each node, which takes minutes on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROGRAM = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.1", "--scramble")


def run_with_faults(settings, address, faults):
    """Supervise the search, and return its fingerprint.

    The functions in `faults` are called in turn: one after every 4 scored candidates, while a worker trains.
    """
    engine, remaining = open_record(settings.database_url), list(faults)

    def on_tick(supervisor):
        with read_transaction(engine) as connection:
            query = select(func.count()).select_from(candidate).where(candidate.c.state == "scored")
            scored = connection.execute(query).scalar_one()
        due = scored >= 4 * (1 + len(faults) - len(remaining))
        if remaining and due and any(slot.busy for slot in supervisor.slots):
            remaining.pop(0)()

    fingerprint = supervise_in_cluster(settings, address, on_tick, program=PROGRAM)
    assert remaining == []
    return fingerprint


def assert_each_trained_once(settings):
    scored = fetch_rows(settings, select(attempt.c.candidate_id).where(attempt.c.outcome == "scored"))
    assert len(scored) == len(set(scored)) == 24


def test_nodes_and_heads_come_and_go_unnoticed(tmp_path):
    expected = supervise_search(create_home(tmp_path / "calm"))
    settings = create_home(tmp_path / "home")
    with ExitStack() as clusters:
        cluster = clusters.enter_context(local_cluster(2))

        def restart_head():
            cluster.kill_all()
            clusters.enter_context(local_cluster(1, cluster.port))

        faults = [lambda: cluster.kill(cluster.nodes[0]), cluster.add_node, restart_head]
        assert run_with_faults(settings, cluster.address, faults) == expected
    assert_each_trained_once(settings)


def test_an_address_without_a_head_is_explained(tmp_path):
    bridge = BridgeProcess("127.0.0.1:1", WorkerNeeds(), tmp_path, tmp_path / "ray", tmp_path / "ray.log")

    def explained():
        bridge.poll()
        return bridge.problem is not None

    eventually(explained)
    bridge.close()
    assert bridge.problem.startswith("the Ray head at 127.0.0.1:1 does not answer")
    assert not (tmp_path / "ray").exists()
