import signal
import subprocess
import sys
from collections import Counter

import pytest
from sqlalchemy import func, select

from eatnas_db import leases, training_record, transitions
from eatnas_db.checkpoint_files import CheckpointName
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.memory_estimate import variable_bytes
from eatnas_db.domain.states import CandidateState, FailureKind, MemoryFallback
from eatnas_db.errors import ConflictError, StaleLeaseError
from eatnas_db.lost_leases import reclaim_leases
from eatnas_db.queries.progress import count_leased
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt, checkpoint, epoch, lease
from eatnas_db.searches.advance import advance_search, breed_births, settle_births
from eatnas_db.searches.locking import lock_search
from support.databases import ON_SQLITE

LEASING_PROGRAM = """
import sys
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.transitions import lease_next
engine = open_record(sys.argv[1])
while True:
    with transaction(engine) as connection:
        leased = lease_next(connection, int(sys.argv[2]), host_id=1, worker_id=1, now=1.0)
    if leased is None:
        break
    print(leased.token.candidate)
"""


def record_failure(engine, leased, kind, now=2.0):
    with transaction(engine) as connection:
        return transitions.record_failure(connection, leased.token, kind, "reason", now=now)


def fetch_one(engine, query):
    with read_transaction(engine) as connection:
        return connection.execute(query).one()


@pytest.mark.slow
def test_concurrent_processes_lease_every_candidate_exactly_once(engine, url, search_factory):
    search_id = search_factory(evolution__population=60, budget__candidates=60)
    command = [sys.executable, "-c", LEASING_PROGRAM, url, str(search_id)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    leased = Counter(line for process in processes for line in process.communicate()[0].split())
    assert len(leased) == 60
    assert set(leased.values()) == {1}


def test_oldest_candidate_is_leased_first(search_factory, lease_factory):
    search_id = search_factory()
    assert [lease_factory(search_id).birth for _ in range(4)] == [0, 1, 2, 3]
    assert lease_factory(search_id) is None


def test_stale_writer_is_refused(engine, search_factory, lease_factory, score_factory):
    search_id = search_factory()
    old = lease_factory(search_id)
    assert record_failure(engine, old, FailureKind.LOST) is CandidateState.PENDING
    new = lease_factory(search_id)
    assert (new.token.candidate, new.token.attempt) == (old.token.candidate, 2)
    with pytest.raises(StaleLeaseError):
        score_factory(old, 0.5)
    epoch = training_record.EpochRecord(0, 1.0, 0.5, 1.0, 0.5, 0.1, 1.0, 1.0)
    with pytest.raises(StaleLeaseError), transaction(engine) as connection:
        training_record.record_epochs(connection, old.token, [epoch], 2.0)
    score_factory(new, 0.75)
    row = fetch_one(engine, select(candidate).where(candidate.c.id == new.token.candidate))
    assert (row.state, row.fitness) == ("scored", 0.75)


def test_replayed_epoch_that_differs_is_reported(engine, search_factory, lease_factory):
    leased = lease_factory(search_factory())
    epoch = training_record.EpochRecord(0, 1.0, 0.5, 1.0, 0.5, 0.1, 1.0, 1.0)
    other = training_record.EpochRecord(0, 1.5, 0.5, 1.0, 0.5, 0.1, 1.0, 1.0)
    with transaction(engine) as connection:
        training_record.record_epochs(connection, leased.token, [epoch], 2.0)
        training_record.record_epochs(connection, leased.token, [epoch], 2.0)
    with read_transaction(engine) as connection:
        differs = select(event.c.id).where(event.c.kind == "replay_differs")
        assert connection.execute(differs).all() == []
    with transaction(engine) as connection:
        training_record.record_epochs(connection, leased.token, [other], 2.0)
        assert len(connection.execute(differs).all()) == 1


def test_own_failures_are_retried_with_backoff(engine, search_factory, lease_factory):
    search_id = search_factory(evolution__population=2, evolution__lag=2, budget__candidates=2)
    leased = lease_factory(search_id)
    assert record_failure(engine, leased, FailureKind.EXCEPTION) is CandidateState.PENDING
    leased = lease_factory(search_id)
    assert record_failure(engine, leased, FailureKind.EXCEPTION, now=100.0) is CandidateState.PENDING
    assert lease_factory(search_id, now=101.0).birth == 1
    leased = lease_factory(search_id, now=200.0)
    assert leased.birth == 0
    assert record_failure(engine, leased, FailureKind.EXCEPTION, now=201.0) is CandidateState.FAILED


def test_out_of_memory_uses_up_the_fallbacks(engine, search_factory, lease_factory):
    search_id = search_factory()
    for fallback in MemoryFallback:
        leased = lease_factory(search_id)
        assert (leased.birth, leased.memory_fallback) == (0, fallback)
        state = record_failure(engine, leased, FailureKind.OUT_OF_MEMORY)
    assert state is CandidateState.FAILED
    with transaction(engine) as connection:
        kinds = {row.kind for row in connection.execute(select(event.c.kind))}
        assert {"to_be_alone", "to_be_halved"} <= kinds


def record_progress(engine, leased, number=0):
    name = str(CheckpointName(leased.token.candidate, leased.token.attempt, number + 1, 0))
    with transaction(engine) as connection:
        epoch_record = training_record.EpochRecord(number, 1.0, 0.5, 1.0, 0.5, 0.1, 1.0, 1.0)
        training_record.record_epochs(connection, leased.token, [epoch_record], 2.0)
        checkpoint_record = training_record.CheckpointRecord(name, "digest", 1, number + 1, 0)
        training_record.record_checkpoint(connection, leased.token, checkpoint_record, 2.0)


def count_progress(engine, leased):
    with read_transaction(engine) as connection:
        return [
            connection.execute(select(func.count()).where(table.c.candidate_id == leased.token.candidate)).scalar_one()
            for table in (epoch, checkpoint)
        ]


@ON_SQLITE
def test_split_batches_begin_from_scratch_once(engine, search_factory, lease_factory):
    search_id = search_factory()
    begins_after, progress = [], []
    for kind in (FailureKind.LOST, FailureKind.OUT_OF_MEMORY, FailureKind.OUT_OF_MEMORY, FailureKind.LOST, None):
        leased = lease_factory(search_id)
        begins_after.append(leased.begins_after)
        progress.append(count_progress(engine, leased))
        if kind is not None:
            record_progress(engine, leased, number=leased.token.attempt)
            record_failure(engine, leased, kind)
    assert begins_after == [0, 0, 0, 3, 3]
    assert progress == [[0, 0], [1, 1], [2, 2], [0, 0], [1, 1]]


def test_lease_filter_skips_candidates_that_do_not_fit(engine, search_factory, lease_factory):
    search_id = search_factory()
    record_failure(engine, lease_factory(search_id), FailureKind.OUT_OF_MEMORY)

    def lease(**limits):
        lease_filter = leases.LeaseFilter(alone=False, **limits)
        with transaction(engine) as connection:
            return transitions.lease_next(
                connection, search_id, host_id=1, worker_id=1, now=1.0, lease_filter=lease_filter
            )

    assert lease(variable_bytes=1000, batch_size=64) is None
    leased = lease(variable_bytes=2**40, batch_size=64)
    assert leased.birth == 1
    assert variable_bytes(leased.params, leased.activations, 64) < 2**40
    assert [lease(), lease(), lease()][-1] is None
    assert lease_factory(search_id).birth == 0
    with transaction(engine) as connection:
        assert count_leased(connection, search_id) == 4


@ON_SQLITE
def test_only_twenty_kills_in_a_row_count(engine, search_factory, lease_factory):
    search_id = search_factory()
    states = [record_failure(engine, lease_factory(search_id), FailureKind.LOST) for _ in range(20)]
    assert states == [CandidateState.PENDING] * 19 + [CandidateState.FAILED]


def test_divergence_fails_without_a_retry(engine, search_factory, lease_factory):
    search_id = search_factory()
    assert record_failure(engine, lease_factory(search_id), FailureKind.DIVERGED) is CandidateState.FAILED


def test_cancelling_ends_the_lease_and_the_attempt(engine, search_factory, lease_factory):
    leased = lease_factory(search_factory())
    with transaction(engine) as connection:
        transitions.cancel(connection, leased.token.candidate, 3.0)
    with read_transaction(engine) as connection:
        assert connection.execute(select(lease.c.candidate_id)).all() == []
        assert connection.execute(select(attempt.c.outcome)).scalar_one() == "cancelled"


def test_restarted_daemon_reclaims_its_leases(engine, search_factory, lease_factory):
    search_id = search_factory()
    first = lease_factory(search_id)
    with transaction(engine) as connection:
        assert reclaim_leases(connection, 1, 3.0) == 1
    assert lease_factory(search_id).token == leases.LeaseToken(first.token.candidate, 2)


@pytest.mark.parametrize(("epochs", "expected"), [(0, 4.0), (3, 6.0)])
def test_lost_training_keeps_the_time_of_its_last_heartbeat(engine, search_factory, lease_factory, epochs, expected):
    """A killed daemon loses one training, and another training is cancelled. Both trainings have begun an epoch that is
    not recorded.
    """
    search_id = search_factory()
    held = [lease_factory(search_id), lease_factory(search_id)]
    progress = leases.LeaseProgress(images_per_second=None, device_share=0.5, step_seconds=8.0)
    with transaction(engine) as connection:
        for leased in held:
            recorded = [training_record.EpochRecord(n, 1.0, 0.5, 1.0, 0.5, 0.1, 4.0, 1.0) for n in range(epochs)]
            training_record.record_epochs(connection, leased.token, recorded, 1.0)
        leases.record_heartbeat(connection, 1, {leased.token: progress for leased in held})
        transitions.cancel(connection, held[0].token.candidate, 3.0)
        assert reclaim_leases(connection, 1, 3.0) == 1
    with read_transaction(engine) as connection:
        assert connection.execute(select(attempt.c.device_seconds)).scalars().all() == [expected, expected]
        assert connection.execute(select(search.c.device_seconds)).scalar_one() == 2 * expected


def test_epoch_of_two_lost_attempts_is_charged_once(engine, search_factory, lease_factory):
    """An attempt is lost in its first epoch. The next attempt finishes it from a checkpoint, and is lost too."""
    search_id = search_factory()
    for seconds, epochs in ((3.0, []), (1.0, [training_record.EpochRecord(0, 1.0, 0.5, 1.0, 0.5, 0.1, 4.0, 1.0)])):
        token = lease_factory(search_id).token
        progress = leases.LeaseProgress(images_per_second=None, device_share=1.0, step_seconds=seconds)
        with transaction(engine) as connection:
            training_record.record_epochs(connection, token, epochs, 1.0)
            leases.record_heartbeat(connection, 1, {token: progress})
            reclaim_leases(connection, 1, 3.0)
    with read_transaction(engine) as connection:
        assert connection.execute(select(attempt.c.device_seconds)).scalars().all() == [3.0, 1.0]
        assert connection.execute(select(search.c.device_seconds)).scalar_one() == 4.0


def test_births_are_gapless_and_population_size_is_constant(engine, search_factory, lease_factory, score_factory):
    search_id = search_factory()
    while (leased := lease_factory(search_id)) is not None:
        score_factory(leased, (leased.birth * 7 % 5) / 10)
        with transaction(engine) as connection:
            settle_births(connection, search_id, 3.0)
            breed_births(connection, search_id, 3.0)
    with transaction(engine) as connection:
        assert advance_search(connection, lock_search(connection, search_id), 4.0)
    row = fetch_one(engine, select(search).where(search.c.id == search_id))
    assert (row.born, row.settled, row.scored) == (12, 12, 12)
    with read_transaction(engine) as connection:
        living = candidate.c.joined.is_not(None) & candidate.c.left.is_(None)
        births = connection.execute(select(candidate.c.birth).where(living)).scalars().all()
    assert sorted(births) == [8, 9, 10, 11]


def test_taken_name_is_refused_and_nothing_is_written(engine, search_factory):
    search_factory()
    with pytest.raises(ConflictError, match="named 's'"):
        search_factory()
    with read_transaction(engine) as connection:
        assert len(connection.execute(select(candidate.c.id)).all()) == 4


def test_killed_writer_leaves_no_partial_write(engine, url, search_factory):
    search_id = search_factory()
    killed = """
import os, signal, sys
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.transitions import lease_next
with transaction(open_record(sys.argv[1])) as connection:
    lease_next(connection, int(sys.argv[2]), host_id=1, worker_id=1, now=1.0)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", killed, url, str(search_id)], check=False)
    assert ended.returncode == -signal.SIGKILL
    with read_transaction(engine) as connection:
        assert connection.execute(select(lease.c.candidate_id)).all() == []
        assert set(connection.execute(select(candidate.c.state)).scalars()) == {"pending"}


@ON_SQLITE
@pytest.mark.parametrize(
    ("population", "tournament", "slots", "lag"),
    [(64, 16, 8, 16), (20, 5, 1, 4), (20, 5, 12, 16), (6, 3, 8, 4), (2, 2, 2, 2)],
)
def test_default_lag_keeps_the_first_tournament_complete(engine, search_factory, population, tournament, slots, lag):
    sizes = {"evolution__population": population, "evolution__tournament": tournament, "budget__candidates": 64}
    search_id = search_factory(slots=slots, evolution__lag=None, **sizes)
    with read_transaction(engine) as connection:
        assert connection.execute(select(search.c.lag).where(search.c.id == search_id)).scalar_one() == lag
