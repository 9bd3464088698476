"""The disk usage of a home, its limit, and results that do not depend on the limit."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some
from sqlalchemy import Engine, select, update
from sqlalchemy import event as engine_event

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.disk_cleanup import free_disk_space
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.disk_usage import DiskUsage, RemovableFile, RemovalOrder, measure_disk_usage, select_for_removal
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.trainings import checkpoint, lease
from eatnas_db.searches.create import create_search
from eatnas_db.settings import Settings, load_settings
from eatnas_db.unchanged_files import GRACE_SECONDS, UnchangedFiles
from support.empty_records import create_empty_record
from support.simulated_worker import SIMULATED_WORKER

FAST = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.005", "--scramble")
SPEC = {
    "name": "s",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "training": {"epochs": 3},
    "evolution": {"population": 4, "tournament": 2, "lag": 3},
    "budget": {"candidates": 16},
    "reevaluation": {"top": 0},
}
FILES = some.lists(
    some.builds(
        RemovableFile,
        path=some.integers(0, 999).map(lambda number: Path(str(number))),
        bytes=some.integers(0, 50),
        changed_at=some.floats(0, 100),
        order=some.sampled_from(RemovalOrder),
    ),
    max_size=20,
)


class Home:
    """A home with one search."""

    def __init__(self, folder: Path) -> None:
        self.settings: Settings = load_settings({}, str(folder))
        folder.mkdir()
        self.unchanged = UnchangedFiles()
        self.engine: Engine = create_empty_record(self.settings.database_url)
        with transaction(self.engine) as connection:
            create_search(
                connection, parse_spec(SPEC, {}), task=Task(8, 1, 10), data_digest="arithmetic", slots=2, now=0.0
            )

    def train(self, on_tick=lambda _: None) -> str:
        launcher = Launcher(self.settings.logs, FAST)
        Supervisor(self.engine, self.settings, launcher, slots=2, host_name="here", only="s").run(on_tick)
        with read_transaction(self.engine) as connection:
            return get_fingerprint(connection, get_search(connection, "s").id).sha256

    def rows(self, query):
        with read_transaction(self.engine) as connection:
            return connection.execute(query).all()

    def free_space(self, limit: int) -> int:
        return free_disk_space(self.engine, self.settings, limit, self.unchanged, monotonic=0.0, wall=0.0)

    def checkpoints(self) -> set[str]:
        return {
            path.relative_to(self.settings.artifacts).as_posix() for path in self.settings.artifacts.rglob("*.ckpt")
        }


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    yield home
    home.engine.dispose()


@given(FILES, some.integers(0, 2000), some.integers(1, 2000))
def test_selection_is_ordered_and_minimal(files, other_bytes, limit):
    usage = DiskUsage(other=other_bytes + sum(file.bytes for file in files), removable=files)
    selected = select_for_removal(usage, limit)
    excess = usage.bytes - limit
    assert sum(file.bytes for file in selected) >= excess or len(selected) == len(files)
    assert not selected or sum(file.bytes for file in selected[:-1]) < excess
    ranks = [(file.order, file.changed_at) for file in selected]
    assert ranks == sorted(ranks)
    kept = [(file.order, file.changed_at) for file in files if not any(file is other for other in selected)]
    assert not ranks or not kept or ranks[-1] <= min(kept)


@pytest.mark.slow
def test_disk_usage_is_measured_by_purpose(home):
    home.train()
    (home.settings.home / "mlflow.db").write_bytes(b"m" * 1000)
    (home.settings.home / "notes.txt").write_bytes(b"n" * 10)
    home.settings.data.mkdir()
    (home.settings.data / "huge.bin").write_bytes(b"d" * 100_000)
    images = home.settings.cache / "images"
    images.mkdir(parents=True)
    for name in ("key.npy", "key.json", "key.lock", "other.77.partial"):
        (images / name).write_bytes(b"c" * 100)
    (images / "killed.78.partial").write_bytes(b"c" * 100)
    measure_disk_usage(home.engine, home.settings, home.unchanged, 0.0)
    (images / "other.77.partial").write_bytes(b"d" * 100)
    usage = measure_disk_usage(home.engine, home.settings, home.unchanged, GRACE_SECONDS + 1)
    total = sum(file.stat().st_size for file in home.settings.home.rglob("*") if file.is_file())
    assert usage.bytes == total - 100_000
    assert usage.mlflow == 1000
    assert usage.other == 10
    assert usage.cache == 500
    cached = [file for file in usage.removable if file.order is RemovalOrder.CACHE]
    assert sorted(file.path.name for file in cached) == [
        "key.json",
        "key.npy",
        "killed.78.partial",
    ]  # every other file is in use
    assert usage.database == home.settings.database_file.stat().st_size
    assert usage.checkpoints.keys() == {"s"}
    assert usage.logs == sum(file.stat().st_size for file in home.settings.logs.iterdir())


@pytest.mark.slow
def test_search_under_a_tight_limit_has_the_same_result(home, tmp_path):
    other = Home(tmp_path / "undisturbed")
    undisturbed = other.train()
    other.engine.dispose()
    in_training: list[int] = []

    def squeeze(_: Supervisor) -> None:
        assert home.free_space(1) > 0
        # A leased candidate keeps all its checkpoints.
        of_leased = select(checkpoint.c.path).join(lease, lease.c.candidate_id == checkpoint.c.candidate_id)
        kept = [row.path for row in home.rows(of_leased)]
        assert set(kept) <= home.checkpoints()
        in_training.extend([1] * bool(kept))

    assert home.train(squeeze) == undisturbed
    assert in_training
    assert home.free_space(1) > 0
    assert home.rows(select(checkpoint)) == []
    assert home.checkpoints() == set()
    assert not list(home.settings.logs.glob("candidate-*.log"))
    assert list(list_violations(home.engine, home.settings.artifacts)) == []
    assert "room_made" in {row.kind for row in home.rows(select(event.c.kind))}


@pytest.mark.slow
def test_home_under_its_limit_keeps_all_files(home):
    home.train()
    before = home.checkpoints()
    assert before
    assert home.free_space(10**12) == 0
    assert home.checkpoints() == before


def test_leftovers_are_removed_first_and_newest_checkpoints_last(home):
    home.train()
    leftover = home.settings.artifacts / "checkpoints" / "1" / "c1-a9-e1-b0.ckpt"
    leftover.write_bytes(b"x")
    fresh = leftover.with_name(".c1-a9-e1-b0.ckpt.0123abcd")
    copy = leftover.with_name("c1-a9-e1-b0.ckpt.bak")
    copy.write_bytes(b"x")
    usage = measure_disk_usage(home.engine, home.settings, home.unchanged, 0.0)
    assert leftover not in [file.path for file in usage.removable]
    fresh.write_bytes(b"x")
    os.utime(fresh, (1, 1))  # imitates a clock that is set back later
    usage = measure_disk_usage(home.engine, home.settings, home.unchanged, GRACE_SECONDS + 1)
    order = [file.order for file in select_for_removal(usage, 0)]
    assert order == sorted(order)
    assert {RemovalOrder.LEFTOVER, RemovalOrder.OLDER, RemovalOrder.NEWEST} == set(order)
    paths = [file.path for file in select_for_removal(usage, 0)]
    assert leftover in paths
    assert not {fresh, copy} & set(paths)
    newest = [file for file in usage.removable if file.order == RemovalOrder.NEWEST]
    living = home.rows(select(candidate.c.id).where(candidate.c.joined.is_not(None), candidate.c.left.is_(None)))
    assert len(newest) >= len(living)


def test_rows_of_removed_checkpoints_are_found_by_their_keys(home):
    home.train()
    deletions = []

    @engine_event.listens_for(home.engine, "before_cursor_execute")
    def record(_connection, _cursor, statement, parameters, _context, _many):
        if statement.startswith("DELETE FROM eatnas_checkpoint"):
            deletions.append((statement, parameters))

    home.free_space(1)
    assert home.rows(select(checkpoint)) == []
    with read_transaction(home.engine) as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {deletions[0][0]}", deletions[0][1]).all()
    steps = [row[3] for row in plan]
    assert "SEARCH eatnas_checkpoint USING PRIMARY KEY (candidate_id=? AND path=?)" in steps
    assert not [step for step in steps if step.startswith("SCAN") and "eatnas" in step]


def test_parent_of_a_pending_child_keeps_its_checkpoint(home):
    home.train()
    rows = home.rows(select(checkpoint.c.candidate_id).distinct())
    parent = rows[0].candidate_id
    with transaction(home.engine) as connection:
        child = connection.execute(select(candidate.c.id).where(candidate.c.id != parent)).scalars().first()
        values = {"parent_id": parent, "state": "pending", "fitness": None, "joined": None, "left": None}
        connection.execute(candidate.update().where(candidate.c.id == child).values(values))
    home.free_space(1)
    of_parent = home.rows(select(checkpoint.c.path).where(checkpoint.c.candidate_id == parent))
    assert [row.path for row in of_parent if row.path in home.checkpoints()]
    assert len(of_parent) == 1


def test_log_of_a_candidate_that_waits_at_a_rung_stays(home):
    with transaction(home.engine) as connection:
        connection.execute(update(candidate).where(candidate.c.id == 1).values(state="waiting"))
        connection.execute(update(candidate).where(candidate.c.id == 2).values(state="cancelled"))
    home.settings.logs.mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        (home.settings.logs / f"candidate-{number}.log").write_text("an epoch\n")
    home.free_space(1)
    assert [file.name for file in home.settings.logs.iterdir()] == ["candidate-1.log"]
