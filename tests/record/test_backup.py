"""Backups made during a search, restores of backups, and searches that continue after a restore."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, func, select, text

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db.backup import back_up, restore
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.errors import ConflictError, NotFoundError, RecordError
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.searches import get_search, list_searches
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.trainings import checkpoint, lease
from eatnas_db.settings import Settings, load_settings
from support.empty_records import create_empty_record
from support.simulated_worker import SIMULATED_WORKER

FAST = (*SIMULATED_WORKER, "--seconds-per-epoch", "0.005", "--scramble")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of an SQLite file. PostgreSQL has its own backup programs."""
    return f"sqlite:///{tmp_path / 'eatnas.db'}"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Yield an engine, and close its connections, because a restore needs exclusive access."""
    engine = create_empty_record(url)
    yield engine
    engine.dispose()


@pytest.fixture
def database(url: str, engine: Engine) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@contextmanager
def open_database(database: Path) -> Iterator[Connection]:
    engine = open_record(f"sqlite:///{database}")
    with read_transaction(engine) as connection:
        yield connection
    engine.dispose()


def born(database: Path) -> int:
    with open_database(database) as connection:
        return sum(row.born for row in list_searches(connection))


def supervise(settings: Settings, on_tick: Any = lambda _: None) -> str:
    engine = open_record(settings.database_url)
    supervisor = Supervisor(engine, settings, Launcher(settings.logs, FAST), slots=2, host_name="here", only="s")
    supervisor.run(on_tick)
    engine.dispose()
    assert settings.database_file is not None
    return fingerprint(settings.database_file)


def fingerprint(database: Path) -> str:
    with open_database(database) as connection:
        return get_fingerprint(connection, get_search(connection, "s").id).sha256


def leftovers(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.endswith(("-wal", "-shm", "-journal", ".partial"))]


@pytest.mark.slow
def test_search_continued_from_a_backup_has_the_same_result(database, engine, search_factory):
    search_factory(budget__candidates=30, training__epochs=3)
    settings = load_settings({}, str(database.parent))
    backup = database.with_name("backup.db")

    def save_once(supervisor: Supervisor) -> None:
        with read_transaction(engine) as connection:
            is_running = get_search(connection, "s").settled >= 10
            leased = connection.execute(select(lease.c.candidate_id)).first()
        if is_running and leased and not backup.exists():
            back_up(database, backup)

    undisturbed = supervise(settings, save_once)
    engine.dispose()
    restored = restore(backup, database, now=0.0)
    with open_database(database) as connection:
        assert 10 <= get_search(connection, "s").settled < 30
        assert connection.execute(select(lease)).first() is None
        assert connection.execute(select(event.c.kind).order_by(event.c.id.desc())).scalar() == "restored"
    assert supervise(settings) == undisturbed
    assert restored.previous is not None
    assert fingerprint(restored.previous) == undisturbed
    assert not list(list_violations(engine, settings.artifacts, whole_files=True))


@pytest.mark.slow
def test_restore_adopts_a_newer_checkpoint(database, engine, search_factory):
    search_factory(budget__candidates=6, training__epochs=40)
    settings = load_settings({}, str(database.parent))
    backup = database.with_name("backup.db")

    def newest_epoch() -> int:
        with read_transaction(engine) as connection:
            newest = select(func.max(checkpoint.c.epoch)).where(checkpoint.c.candidate_id == 1)
            return connection.execute(newest).scalar() or 0

    def save_then_stop(supervisor: Supervisor) -> None:
        if newest_epoch() >= 1 and not backup.exists():
            back_up(database, backup)
        if newest_epoch() >= 6:
            supervisor.stop()

    supervise(settings, save_then_stop)
    engine.dispose()
    restore(backup, database, now=0.0)
    supervise(settings)
    kinds = select(event.c.kind).where(event.c.candidate_id == 1).order_by(event.c.id)
    with open_database(database) as connection:
        assert "checkpoint_adopted" in connection.execute(kinds).scalars().all()


def test_backup_ignores_an_open_transaction(database, engine, search_factory):
    search_factory()
    with transaction(engine) as connection:
        connection.execute(text("UPDATE eatnas_search SET name = 'never committed'"))
        backup = back_up(database, database.with_name("b.db"))
        connection.rollback()
    with open_database(backup.file) as connection:
        assert [row.name for row in list_searches(connection)] == ["s"]
    assert backup.bytes > 0


def test_backup_is_one_file_readable_without_write_access(database, search_factory):
    search_factory()
    backup = back_up(database, database.with_name("b.db"))
    with closing(sqlite3.connect(f"{backup.file.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM eatnas_candidate").fetchone() == (4,)
    assert [name for name in leftovers(database.parent) if name.startswith((".b.db", "b.db"))] == []


def test_existing_file_is_replaced_only_with_force(database, search_factory):
    target = database.with_name("b.db")
    target.write_text("precious")
    with pytest.raises(ConflictError, match="--force"):
        back_up(database, target)
    assert target.read_text() == "precious"
    back_up(database, target, force=True)
    assert born(target) == 0


@pytest.mark.parametrize("target", ["eatnas.db", "no/such/folder.db", "."])
def test_unusable_backup_target_is_refused(database, target):
    with pytest.raises((ConflictError, NotFoundError)):
        back_up(database, database.parent / target, force=True)
    assert born(database) == 0


def test_damaged_record_is_not_backed_up(database, engine, search_factory):
    search_factory()
    engine.dispose()
    content = bytearray(database.read_bytes())
    # Overwrite a whole page, including its header. The last pages belong to the largest tables.
    content[-4096 * 2 : -4096] = b"\xff" * 4096
    database.write_bytes(content)
    with pytest.raises(RecordError, match=r"damaged|cannot be copied"):
        back_up(database, database.with_name("b.db"))
    assert not database.with_name("b.db").exists()
    assert leftovers(database.parent) == []


def test_backup_on_a_full_disk_leaves_nothing_behind(database, search_factory):
    search_factory()
    code = (
        "import resource, signal, sys; from pathlib import Path; from eatnas_db.backup import back_up;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        "back_up(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    target = database.with_name("b.db")
    program = subprocess.run(
        [sys.executable, "-c", code, database, target], capture_output=True, text=True, check=False
    )
    assert "no room for a copy" in program.stderr.splitlines()[-1]
    assert not target.exists()
    assert [name for name in leftovers(database.parent) if name.startswith(".b.db")] == []


def test_restore_keeps_the_previous_record(database, engine, search_factory):
    search_factory()
    backup = back_up(database, database.with_name("b.db")).file
    search_factory("later")
    engine.dispose()
    restored = restore(backup, database, now=1_700_000_000.0)
    assert (born(database), born(restored.previous)) == (4, 8)
    assert restored.previous.name == "eatnas.db.before-restore-20231114T221320Z"
    assert restore(backup, database, now=1_700_000_000.0).previous.name.endswith("20231114T221320Z-1")


def test_restore_creates_a_missing_record(database, engine, search_factory, tmp_path):
    search_factory()
    backup = back_up(database, database.with_name("b.db")).file
    restored = restore(backup, tmp_path / "other.db", now=0.0)
    assert (born(tmp_path / "other.db"), restored.previous) == (4, None)


def test_restore_keeps_rows_of_the_write_ahead_log(database, engine, search_factory):
    backup = back_up(database, database.with_name("b.db")).file
    search_factory()
    # After a kill, only the write-ahead log contains the search.
    killed = database.parent / "killed"
    killed.mkdir()
    for name in ("eatnas.db", "eatnas.db-wal"):
        (killed / name).write_bytes((database.parent / name).read_bytes())
    assert (killed / "eatnas.db-wal").stat().st_size > 0
    restored = restore(backup, killed / "eatnas.db", now=0.0)
    assert leftovers(killed) == []
    assert (born(killed / "eatnas.db"), born(restored.previous)) == (0, 4)


def test_restore_keeps_all_files_of_a_damaged_record(database, engine, search_factory):
    backup = back_up(database, database.with_name("b.db")).file
    engine.dispose()
    database.write_bytes(b"garbage" * 1000)
    database.with_name("eatnas.db-wal").write_bytes(b"more of it")
    restored = restore(backup, database, now=0.0)
    assert born(database) == 0
    assert restored.previous.read_bytes().startswith(b"garbage")
    assert restored.previous.with_name(restored.previous.name + "-wal").read_bytes() == b"more of it"


def test_open_record_is_not_restored(database, engine, search_factory):
    backup = back_up(database, database.with_name("b.db")).file
    search_factory()
    with read_transaction(engine) as connection:
        connection.execute(select(candidate.c.id)).first()
        with pytest.raises(ConflictError, match="another program"):
            restore(backup, database, now=0.0, busy_seconds=0.1)
    assert born(database) == 4


def execute_on(backup: Path, statement: str) -> Path:
    with closing(sqlite3.connect(backup)) as connection:
        connection.execute(statement)
        connection.commit()
    return backup


def test_older_backup_is_restored_and_newer_refused(database, engine, search_factory):
    search_factory()
    backup = back_up(database, database.with_name("b.db")).file
    engine.dispose()
    with pytest.raises(RecordError, match="newer version"):
        restore(execute_on(backup, "UPDATE eatnas_alembic_version SET version_num = '9999'"), database, now=0.0)
    older = execute_on(backup, "UPDATE eatnas_alembic_version SET version_num = '0000'")
    assert restore(older, database, now=0.0).revision == "0000"
    with pytest.raises(RecordError, match="db upgrade"):
        open_record(f"sqlite:///{database}")


@pytest.mark.parametrize("content", [b"", b"no database at all" * 500])
def test_file_without_a_record_is_not_restored(database, content):
    file = database.with_name("b.db")
    file.write_bytes(content)
    with pytest.raises(RecordError, match=r"not an SQLite database|no eatnas-db record"):
        restore(file, database, now=0.0)
    assert born(database) == 0


@pytest.mark.slow
def test_restore_needs_another_existing_file(database):
    with pytest.raises(ConflictError, match="itself"):
        restore(database, database, now=0.0)
    with pytest.raises(NotFoundError):
        restore(database.with_name("b.db"), database, now=0.0)
