"""A record of trained searches violates no rule, and every deliberate violation is reported."""

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, select, update

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import FailureKind
from eatnas_db.integrity.check import list_violations
from eatnas_db.integrity.violations import Violation
from eatnas_db.schema.candidates import candidate, prediction
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.create import create_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retry import retry_candidates
from eatnas_db.settings import Settings, load_settings
from eatnas_db.transitions import record_failure
from eatnas_migrations import commands
from support.simulated_worker import SIMULATED_WORKER

FAST = (*SIMULATED_WORKER, "--fail-on", "6")
SPEC = {
    "name": "s",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": 3},
    "evolution": {"population": 4, "tournament": 2, "lag": 3},
    "budget": {"candidates": 12},
    "reevaluation": {"top": 2, "seeds": 2},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with a finished search and its finished re-evaluation. One candidate of the search failed."""
    settings = load_settings({}, str(tmp_path_factory.mktemp("finished") / "home"))
    settings.home.mkdir()
    engine = create_engine_for(settings.database_url)
    commands.upgrade(engine)
    with transaction(engine) as connection:
        create_search(connection, parse_spec(SPEC, {}), task=Task(8, 1, 10), data_digest="arithmetic", slots=2, now=0.0)
    minutes = iter(range(0, 10**9, 60))
    # Each reading advances the clock by a minute, so that failed candidates need not wait for their next attempt.
    Supervisor(
        engine,
        settings,
        Launcher(settings.logs, FAST),
        slots=2,
        host_name="here",
        only="s",
        wall=lambda: float(next(minutes)),
    ).run()
    engine.dispose()
    return settings.home


@pytest.fixture
def settings(finished: Path, tmp_path: Path) -> Settings:
    shutil.copytree(finished, tmp_path / "home")
    return load_settings({}, str(tmp_path / "home"))


@pytest.fixture
def find_violations(settings: Settings) -> Callable[..., dict[str, Violation]]:
    """Return a function that executes statements with constraints disabled, and returns the violations by invariant."""

    def find(*statements: str, whole_files: bool = True) -> dict[str, Violation]:
        assert settings.database_file is not None
        with closing(sqlite3.connect(settings.database_file)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for statement in statements:
                assert connection.execute(statement).rowcount > 0, statement
            connection.commit()
        engine = open_record(settings.database_url)
        violations = list(list_violations(engine, settings.artifacts, whole_files=whole_files))
        engine.dispose()
        return {violation.invariant: violation for violation in violations}

    return find


@pytest.fixture
def checkpoint_file(settings: Settings) -> Iterator[tuple[str, Path]]:
    engine = open_record(settings.database_url)
    with read_transaction(engine) as connection:
        path = connection.execute(select(checkpoint.c.path).order_by(checkpoint.c.path)).scalars().first()
    engine.dispose()
    assert path is not None
    return path, settings.artifacts / path


def test_a_finished_search_violates_nothing(find_violations):
    assert find_violations() == {}


@pytest.mark.slow
@pytest.mark.parametrize("acquisition", ["improvement", "improvement_per_second"])
def test_guided_births_are_replayed(
    engine: Engine, search_factory, lease_factory, score_factory, tmp_path, acquisition
):
    changes = {"evolution__births": "guided", "evolution__acquisition": acquisition, "evolution__population": 10}
    search_id = search_factory(**changes, budget__candidates=20)
    for _ in range(20):
        leased = lease_factory(search_id)
        score_factory(leased, leased.mult_adds / 1e9)
        with transaction(engine) as connection:
            advance_search(connection, lock_search(connection, search_id), 2.0)
    rule = "each birth is the one that the spec, the seed and the earlier births decide"
    of_rule = [violation for violation in list_violations(engine, tmp_path) if violation.invariant == rule]
    assert of_rule == []
    with transaction(engine) as connection:
        network = ("architecture_id", "params", "mult_adds", "code")
        copied = select(*(candidate.c[name] for name in network)).where(candidate.c.birth == 3)
        values = connection.execute(copied).one()._asdict()
        connection.execute(update(candidate).where(candidate.c.birth == 19).values(**values, replica=1))
        connection.execute(delete(prediction).where(prediction.c.candidate_id == 13))
    (violation,) = [violation for violation in list_violations(engine, tmp_path) if violation.invariant == rule]
    assert violation.examples == (13, 20)


def test_an_unfinished_search_violates_nothing(engine: Engine, search_factory, lease_factory, tmp_path):
    search_id = search_factory(training__epochs=1)
    assert list(list_violations(engine, tmp_path)) == []
    leased = [lease_factory(search_id) for _ in range(2)]
    assert list(list_violations(engine, tmp_path)) == []
    with transaction(engine) as connection:
        record_failure(connection, leased[0].token, FailureKind.DIVERGED, "", now=2.0)
        advance_search(connection, lock_search(connection, search_id), 2.0)
    assert list(list_violations(engine, tmp_path)) == []
    with transaction(engine) as connection:
        retry_candidates(connection, [leased[0].token.candidate], 3.0)
    assert list(list_violations(engine, tmp_path)) == []


@pytest.mark.parametrize(
    ("statement", "rule", "example"),
    [
        ("DELETE FROM eatnas_score WHERE candidate_id = 3", "has scores and a scored attempt", 3),
        ("UPDATE eatnas_attempt SET outcome = 'failed' WHERE candidate_id = 3", "has scores and a scored attempt", 3),
        ("UPDATE eatnas_attempt SET outcome = 'scored' WHERE candidate_id = 6", "has scores and a scored attempt", 6),
        (
            "DELETE FROM eatnas_attempt WHERE candidate_id = 6 AND number = 2",
            "attempts of a candidate are numbered",
            6,
        ),
        (
            "UPDATE eatnas_attempt SET number = 99 WHERE candidate_id = 6 AND number = 1",
            "attempts of a candidate are numbered",
            6,
        ),
        (
            "UPDATE eatnas_candidate SET attempt = 2 WHERE id = 3",
            "attempts of a candidate are numbered",
            3,
        ),
        ("UPDATE eatnas_attempt SET ended_at = NULL, outcome = NULL WHERE candidate_id = 3", "has an open attempt", 3),
        ("UPDATE eatnas_candidate SET state = 'leased' WHERE id = 6", "has an open attempt", 6),
        ("UPDATE eatnas_candidate SET state = 'leased' WHERE id = 6", "has a lease", 6),
        (
            "INSERT INTO eatnas_lease (candidate_id, attempt, host_id) VALUES (3, 1, 1)",
            "has a lease",
            3,
        ),
        (
            "INSERT INTO eatnas_lease (candidate_id, attempt, host_id) VALUES (99, 1, 1)",
            "has a lease",
            99,
        ),
        ("UPDATE eatnas_score SET metric = 'test_loss' WHERE metric = 'val_loss'", "evaluated on the test part", 1),
        ("UPDATE eatnas_candidate SET accuracy = 2 WHERE id = 3", "accuracy of a candidate equals", 3),
        ("UPDATE eatnas_epoch SET val_loss = NULL WHERE candidate_id = 3", "evaluated on the test part", 3),
        ("UPDATE eatnas_candidate SET birth = 99 WHERE id = 3", "births are numbered without gaps", "s"),
        ("UPDATE eatnas_search SET scored = scored - 1 WHERE id = 1", "counts of born and scored", "s"),
        ("UPDATE eatnas_search SET born = born + 1 WHERE id = 1", "counts of born and scored", "s"),
        ("DELETE FROM eatnas_step WHERE search_id = 1 AND number = 3", "steps are numbered without gaps", "s"),
        ("UPDATE eatnas_search SET settled = settled - 1 WHERE id = 1", "steps are numbered without gaps", "s"),
        ("UPDATE eatnas_candidate SET state = 'pending' WHERE id = 6", "settled births have ended", 6),
        ("UPDATE eatnas_candidate SET joined = joined - 1 WHERE id = 3", "joined the population at its own step", 3),
        ("UPDATE eatnas_candidate SET joined = NULL, left = NULL WHERE id = 3", "joined the population", 3),
        ("UPDATE eatnas_candidate SET left = 99 WHERE id = 3", "joined the population at its own step", 3),
        ("UPDATE eatnas_step SET size = 3 WHERE search_id = 1 AND number = 5", "size of its population", "step 5 of s"),
        ("UPDATE eatnas_candidate SET left = left + 1 WHERE id = 1", "size of its population", "step 5 of s"),
        ("UPDATE eatnas_search SET population = 3 WHERE id = 1", "does not exceed the limit", "step 4 of s"),
        ("UPDATE eatnas_candidate SET parent_id = 12 WHERE id = 8", "have a parent", 8),
        ("UPDATE eatnas_candidate SET parent_id = 99 WHERE id = 8", "have a parent", 8),
        ("UPDATE eatnas_candidate SET parent_id = NULL WHERE id = 8", "have a parent", 8),
        ("UPDATE eatnas_candidate SET parent_id = 1 WHERE id = 3", "have a parent", 3),
        ("DELETE FROM eatnas_mutation WHERE candidate_id = 8", "stored mutations are", 8),
        ("UPDATE eatnas_mutation SET before = 'x' WHERE candidate_id = 8", "stored mutations are", 8),
        ("INSERT INTO eatnas_mutation VALUES (3, 0, 1, 'depth', '1', '2')", "stored mutations are", 3),
        ("DELETE FROM eatnas_epoch WHERE candidate_id = 3 AND number = 1", "epochs are numbered without gaps", 3),
        ("DELETE FROM eatnas_epoch WHERE candidate_id = 3 AND number = 2", "has all epochs", 3),
        ("UPDATE eatnas_architecture SET digest = '0' WHERE id = 3", "stored genotype and digest", 3),
        ("UPDATE eatnas_candidate SET code = 'garbage' WHERE id = 3", "stored genotype and digest", 3),
        (
            "UPDATE eatnas_candidate SET code = (SELECT code FROM eatnas_candidate WHERE id = 4) WHERE id = 3",
            "stored genotype and digest",
            3,
        ),
        ("UPDATE eatnas_attempt SET worker_id = 99 WHERE candidate_id = 3", "every referenced row exists", None),
        ("UPDATE eatnas_candidate SET fitness = NULL WHERE id = 3", "the database file is undamaged", None),
    ],
)
def test_a_violated_rule_is_reported_with_an_example(find_violations, statement, rule, example):
    violations = [violation for invariant, violation in find_violations(statement).items() if rule in invariant]
    assert violations, rule
    violation = violations[0]
    assert example is None or example in violation.examples
    assert str(violation).startswith(f"violated: {violation.invariant} ({violation.what}: ")


@pytest.mark.parametrize(
    ("statements", "rule", "example"),
    [
        (
            [
                "UPDATE eatnas_candidate SET parent_id = (SELECT max(id) FROM eatnas_candidate WHERE id < 5 "
                "AND id <> (SELECT parent_id FROM eatnas_candidate WHERE id = 8)) WHERE id = 8"
            ],
            "parent of each birth",
            8,
        ),
        (["UPDATE eatnas_candidate SET fitness = fitness + 1e-9 WHERE id = 3"], "fitness of a candidate follows", 3),
        (
            [
                "UPDATE eatnas_candidate SET birth = -1 WHERE id = 3",
                "UPDATE eatnas_candidate SET birth = 2 WHERE id = 4",
                "UPDATE eatnas_candidate SET birth = 3 WHERE id = 3",
            ],
            "each birth is the one",
            3,
        ),
        (
            [
                "UPDATE eatnas_candidate SET replica = 9 WHERE id = 11",
                "UPDATE eatnas_candidate SET (code, architecture_id, params, mult_adds) = (SELECT code, "
                "architecture_id, params, mult_adds FROM eatnas_candidate WHERE id = 11) WHERE id = 3",
            ],
            "each birth is the one",
            3,
        ),
        (["UPDATE eatnas_candidate SET params = params + 1 WHERE id = 3"], "each birth is the one", 3),
        (
            ["UPDATE eatnas_step SET quality = quality + 1e-9 WHERE search_id = 1 AND number = 5"],
            "stores the quality",
            "step 5 of s",
        ),
        (
            ["INSERT INTO eatnas_lease (candidate_id, attempt, host_id) VALUES (3, 1, 77)"],
            "host of each lease is recorded",
            3,
        ),
    ],
)
def test_a_record_that_differs_from_its_replay_is_reported(find_violations, statements, rule, example):
    (violation,) = [found for invariant, found in find_violations(*statements).items() if rule in invariant]
    assert example in violation.examples


def test_the_first_of_many_offenders_are_listed(find_violations):
    (violation,) = find_violations("DELETE FROM eatnas_mutation").values()
    assert violation.count > len(violation.examples) == 5
    assert str(violation).endswith(f", … {violation.count} in total)")


def test_a_damaged_page_is_reported(settings, find_violations):
    with closing(sqlite3.connect(settings.database_file)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'eatnas_epoch'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(settings.database_file.read_bytes())
    # Damage the second half of the page: its header stays readable, but its rows do not.
    content[page * size - size // 2 : page * size] = b"\xff" * (size // 2)
    settings.database_file.write_bytes(content)
    assert "the database file is undamaged" in find_violations()


def test_a_missing_checkpoint_is_reported(find_violations, checkpoint_file):
    path, file = checkpoint_file
    file.unlink()
    (violation,) = find_violations().values()
    assert (violation.invariant, violation.examples) == ("every recorded checkpoint file exists", (path,))


def test_a_checkpoint_of_the_wrong_size_is_reported(find_violations, checkpoint_file):
    path, file = checkpoint_file
    file.write_bytes(file.read_bytes()[:-1])
    (violation,) = find_violations(whole_files=False).values()
    assert violation.examples == (path,)


def test_a_damaged_checkpoint_is_reported_when_files_are_read(find_violations, checkpoint_file):
    path, file = checkpoint_file
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    assert find_violations(whole_files=False) == {}
    (violation,) = find_violations(whole_files=True).values()
    assert violation.examples == (path,)


def test_a_checkpoint_with_other_content_is_reported(find_violations, checkpoint_file):
    path, file = checkpoint_file
    content = b"x" * (file.stat().st_size - 32)
    file.write_bytes(content + hashlib.sha256(content).digest())
    (violation,) = find_violations(whole_files=True).values()
    assert violation.examples == (path,)


@pytest.mark.parametrize(
    "path", ["../../precious", "/etc/hostname", "checkpoints/../../precious", "link/precious", "."]
)
def test_paths_that_leave_the_artifacts_are_reported(settings, find_violations, path):
    settings.artifacts.joinpath("link").symlink_to(settings.home.parent)
    settings.home.parent.joinpath("precious").write_text("keep me")
    found = find_violations(
        f"INSERT INTO eatnas_checkpoint SELECT candidate_id, '{path}', attempt, epoch, batch, digest, bytes, "
        "created_at FROM eatnas_checkpoint LIMIT 1"
    )
    assert found["every checkpoint path stays in the artifacts folder"].examples == (path,)
    assert len(found) == 1


def test_search_without_its_plugin_is_not_checked(engine, search_factory, tmp_path):
    search_factory()
    absent = {"reference": "absent_package:SPACE", "version": "1.0", "source_digest": "0" * 64}
    with transaction(engine) as connection:
        stored = connection.execute(select(search.c.macro)).scalar_one()
        connection.execute(update(search).values(macro={**stored, "plugins": [absent]}))
    notes = []

    assert list(list_violations(engine, tmp_path, on_unchecked=notes.append)) == []

    (note,) = notes
    assert note.startswith("search 's' was not replayed: the package absent_package is not installed")
