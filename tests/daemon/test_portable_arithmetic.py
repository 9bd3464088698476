"""In native and portable searches, each candidate is trained by a worker with the arithmetic of its recipe."""

import os

import pytest
from sqlalchemy import select

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import TRAINING_PROGRAM, Launcher
from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.arithmetic import PORTABLE_SETTINGS, SETTINGS
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.hosts import worker
from eatnas_db.schema.trainings import provenance, score
from eatnas_db.searches.create import create_search
from support.searches import FAST_WORKER, fetch_rows

QUICK = Timeouts(tick=0.02, database=0.05, restart=0.05)
PLAIN = {key: value for key, value in os.environ.items() if key not in SETTINGS}
BY_SEARCH = (
    select(candidate.c.search_id, provenance.c.settings, provenance.c.recipe)
    .join(score, score.c.candidate_id == candidate.c.id)
    .join(provenance, provenance.c.id == score.c.provenance_id)
)


def run(settings, slots=2, program=FAST_WORKER, environment=PLAIN, only=None):
    """Run all searches of a home to their ends, and return the fingerprint of the first search."""
    engine = open_record(settings.database_url)
    launcher = Launcher(settings.logs, program, environment=environment)
    supervisor = Supervisor(engine, settings, launcher, slots=slots, host_name="here", only=only, timeouts=QUICK)

    def stop_when_done(supervisor):
        with read_transaction(engine) as connection:
            states = set(connection.execute(select(candidate.c.state).distinct()).scalars())
        if states == {"scored"} and not any(slot.busy for slot in supervisor.slots):
            supervisor.stop()

    supervisor.run(stop_when_done)
    with read_transaction(engine) as connection:
        fingerprint = get_fingerprint(connection, 1).sha256
    engine.dispose()
    return fingerprint


def add_search(settings, name, arithmetic):
    tree = {
        "name": name,
        "space": "eatnas-tiny",
        "data": {"name": "digits"},
        "training": {"epochs": 2, "arithmetic": arithmetic},
        "evolution": {"population": 4, "tournament": 2, "lag": 2},
        "budget": {"candidates": 8},
        "reevaluation": {"top": 0},
    }
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        create_search(connection, parse_spec(tree), task=Task(8, 1, 10), data_digest="arithmetic", slots=2, now=0.0)
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("first", ["native", "portable"])
@pytest.mark.parametrize("slots", [1, 2])
def test_each_search_gets_workers_of_its_arithmetic(tmp_path, home, slots, first):
    settings = home(
        tmp_path / "mixed", training__arithmetic=first, evolution__population=4, evolution__lag=2, budget__candidates=8
    )
    second = {"native": "portable", "portable": "native"}[first]
    add_search(settings, "second", second)
    run(settings, slots)
    expected = {1: first, 2: second}
    rows = fetch_rows(settings, BY_SEARCH)
    assert {row.search_id for row in rows} == {1, 2}
    for row in rows:
        portable = expected[row.search_id] == "portable"
        assert row.settings == (PORTABLE_SETTINGS if portable else {})
        assert row.recipe.get("arithmetic") == ("portable" if portable else None)
    endings = [row.ending for row in fetch_rows(settings, select(worker.c.ending))]
    replaced = f"replaced by a fresh worker: other candidates need {second} arithmetic"
    assert replaced in endings
    if slots == 1:
        assert (endings.count(replaced), len(endings)) == (1, 2)
    # While one slot trains, another slot may serve both searches in turn, which takes some replacements of workers.
    assert len(endings) < 8


@pytest.mark.slow
def test_portable_bits_do_not_depend_on_the_machine(tmp_path, home):
    def fingerprint(name, arithmetic, **limits):
        settings = home(
            tmp_path / name,
            training__arithmetic=arithmetic,
            training__epochs=1,
            budget__candidates=2,
            evolution__population=2,
            evolution__lag=2,
            evolution__tournament=2,
            data__train_images=64,
            data__validation_images=64,
        )
        return run(settings, slots=1, program=TRAINING_PROGRAM, environment={**PLAIN, **limits})

    limits = {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "AVX2"}
    fast = {"ONEDNN_DEFAULT_FPMATH_MODE": "ANY", "DNNL_DEFAULT_FPMATH_MODE": "ANY"}
    native = fingerprint("native", "native")
    assert fingerprint("limited", "native", **limits) != native
    assert fingerprint("fast", "native", **fast) == native
    assert fingerprint("portable", "portable") == fingerprint("portable-limited", "portable", **limits, **fast)
