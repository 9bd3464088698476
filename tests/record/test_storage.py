"""What a home takes on the disk, what goes first where it is bound, and that no result hangs on it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some
from sqlalchemy import Engine, select

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db.database.engine import create_engine_for
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.disk_cleanup import free_disk_space
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.errors import EatnasError
from eatnas_db.home_config import read_max_bytes
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.disk_usage import DiskUsage, RemovableFile, RemovalOrder, measure_disk_usage, select_for_removal
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.trainings import checkpoint, lease
from eatnas_db.searches.create import create_search
from eatnas_db.settings import Settings, load_settings
from eatnas_migrations import commands
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
    """A home with one search, which can be trained on."""

    def __init__(self, folder: Path) -> None:
        self.settings: Settings = load_settings({}, str(folder))
        folder.mkdir()
        self.engine: Engine = create_engine_for(self.settings.database_url)
        commands.upgrade(self.engine)
        with transaction(self.engine) as connection:
            create_search(
                connection, parse_spec(SPEC, {}), task=Task(8, 1, 10), data_digest="arithmetic", slots=2, now=0.0
            )

    def train(self, on_tick=lambda _: None) -> str:
        launcher = Launcher(self.settings.logs, FAST)
        Supervisor(self.engine, self.settings, launcher, slots=2, host_name="here", only="s").run(on_tick)
        with read_transaction(self.engine) as connection:
            return get_fingerprint(connection, get_search(connection, "s").id).sha256

    def ask(self, query):
        with read_transaction(self.engine) as connection:
            return connection.execute(query).all()

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
def test_no_more_goes_than_has_to_and_in_the_documented_order(files, needed, limit):
    usage = DiskUsage(other=needed + sum(file.bytes for file in files), removable=files)
    going = select_for_removal(usage, limit)
    over = usage.bytes - limit
    assert sum(file.bytes for file in going) >= over or len(going) == len(files)
    assert not going or sum(file.bytes for file in going[:-1]) < over
    ranks = [(file.order, file.changed_at) for file in going]
    assert ranks == sorted(ranks)
    staying = [(file.order, file.changed_at) for file in files if not any(file is one for one in going)]
    assert not ranks or not staying or ranks[-1] <= min(staying)


def test_what_a_home_takes_is_told_by_what_it_is_for(home):
    home.train()
    (home.settings.home / "mlflow.db").write_bytes(b"m" * 1000)
    (home.settings.home / "notes.txt").write_bytes(b"n" * 10)
    home.settings.data.mkdir()
    (home.settings.data / "huge.bin").write_bytes(b"d" * 100_000)
    usage = measure_disk_usage(home.engine, home.settings, time.time())
    of_files = sum(file.stat().st_size for file in home.settings.home.rglob("*") if file.is_file())
    assert usage.bytes == of_files - 100_000
    assert usage.mlflow == 1000
    assert usage.other == 10
    assert usage.database == home.settings.database_file.stat().st_size
    assert usage.checkpoints.keys() == {"s"}
    assert usage.logs == sum(file.stat().st_size for file in home.settings.logs.iterdir())


@pytest.mark.slow
def test_a_search_under_a_bound_that_takes_all_it_may_comes_out_the_same(home, tmp_path):
    other = Home(tmp_path / "undisturbed")
    undisturbed = other.train()
    other.engine.dispose()
    in_training: list[int] = []

    def squeeze(_: Supervisor) -> None:
        over = free_disk_space(home.engine, home.settings, 1, time.time())
        assert over > 0
        # What somebody could go on from has all its files.
        wanted = select(checkpoint.c.path).join(lease, lease.c.candidate_id == checkpoint.c.candidate_id)
        kept = [row.path for row in home.ask(wanted)]
        assert set(kept) <= home.checkpoints()
        in_training.extend([1] * bool(kept))

    assert home.train(squeeze) == undisturbed
    assert in_training
    assert free_disk_space(home.engine, home.settings, 1, time.time()) > 0
    assert home.ask(select(checkpoint)) == []
    assert home.checkpoints() == set()
    assert not list(home.settings.logs.glob("candidate-*.log"))
    assert list(list_violations(home.engine, home.settings.artifacts)) == []
    assert "room_made" in {row.kind for row in home.ask(select(event.c.kind))}


def test_nothing_goes_from_a_home_within_its_bound(home):
    home.train()
    before = home.checkpoints()
    assert before
    assert free_disk_space(home.engine, home.settings, 10**12, time.time()) == 0
    assert home.checkpoints() == before


def test_logs_and_leftovers_go_before_checkpoints_and_the_newest_last(home):
    home.train()
    leftover = home.settings.artifacts / "checkpoints" / "1" / "c1-a9-e1-b0.ckpt"
    leftover.write_bytes(b"x")
    long_ago = time.time() - 7200
    os.utime(leftover, (long_ago, long_ago))
    fresh = leftover.with_name(".c1-a9-e1-b0.ckpt.being-written")
    fresh.write_bytes(b"x")
    usage = measure_disk_usage(home.engine, home.settings, time.time())
    order = [file.order for file in select_for_removal(usage, 0)]
    assert order == sorted(order)
    assert {RemovalOrder.LEFTOVER, RemovalOrder.OLDER, RemovalOrder.NEWEST} == set(order)
    paths = [file.path for file in select_for_removal(usage, 0)]
    assert leftover in paths
    assert fresh not in paths
    newest = [file for file in usage.removable if file.order == RemovalOrder.NEWEST]
    living = home.ask(select(candidate.c.id).where(candidate.c.joined.is_not(None), candidate.c.left.is_(None)))
    assert len(newest) >= len(living)


def test_a_parent_whose_child_waits_keeps_its_newest_checkpoint(home):
    home.train()
    rows = home.ask(select(checkpoint.c.candidate_id).distinct())
    parent = rows[0].candidate_id
    with transaction(home.engine) as connection:
        child = connection.execute(select(candidate.c.id).where(candidate.c.id != parent)).scalars().first()
        values = {"parent_id": parent, "state": "pending", "fitness": None, "joined": None, "left": None}
        connection.execute(candidate.update().where(candidate.c.id == child).values(values))
    free_disk_space(home.engine, home.settings, 1, time.time())
    of_parent = home.ask(select(checkpoint.c.path).where(checkpoint.c.candidate_id == parent))
    assert [row.path for row in of_parent if row.path in home.checkpoints()]
    assert len(of_parent) == 1


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("", None),
        ("storage:", None),
        ("storage: {max_bytes: 20_000}", 20_000),
        ("storage: {max_bytes: 20GB}", 20 * 10**9),
        ("storage: {max_bytes: 1.5 tb}", 1_500 * 10**9),
        ("storage: {max_bytes: 20GiB}\nhooks: {on_event: 3}", 20 * 2**30),
    ],
)
def test_a_bound_is_read_from_the_home(tmp_path, text, bound):
    assert read_max_bytes(tmp_path, {}) is None
    (tmp_path / "config.yaml").write_text(text)
    assert read_max_bytes(tmp_path, {}) == bound
    assert read_max_bytes(tmp_path, {"EATNAS_MAX_BYTES": "7MB"}) == 7 * 10**6


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("storage: 3", "storage is 3"),
        ("storage: {max_bytes: many}", "max_bytes is 'many'"),
        ("storage: {max_bytes: 0}", "max_bytes is 0"),
        ("storage: {max_bytes: '1,5TB'}", "max_bytes is '1,5TB'; expected a number of bytes above 0"),
        ("[3]", "config.yaml is [3]; expected a mapping with the keys storage and hooks"),
        ("storage: {max_bytes: true}", "max_bytes is True"),
        ("storage: {most: 3}", "unknown key 'most'; known keys: max_bytes"),
        ("disk: {}", "unknown key 'disk'; known keys: storage, hooks"),
        ("[", "is not valid YAML"),
    ],
)
def test_a_bound_that_makes_no_sense_is_one_line_that_says_where(tmp_path, text, named):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(EatnasError) as raised:
        read_max_bytes(tmp_path, {})
    assert named in str(raised.value)
    assert str(tmp_path / "config.yaml") in str(raised.value)
    assert "\n" not in str(raised.value)
