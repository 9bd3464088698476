"""Migrations, and the records that a program opens."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

import eatnas_migrations
from eatnas_db.database.engine import create_engine_for, current_revision, open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.errors import RecordError
from eatnas_db.schema.record import REVISION, VERSION_TABLE
from eatnas_migrations import commands


def test_the_program_uses_the_newest_revision():
    config = Config()
    config.set_main_option("script_location", str(Path(eatnas_migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


def test_upgraded_tables_match_the_models(url):
    engine = create_engine_for(url)
    commands.upgrade(engine)
    assert not commands.differs_from_models(engine)


def test_downgrade_drops_only_its_own_tables(url):
    engine = create_engine_for(url)
    with transaction(engine) as connection:
        connection.execute(text("CREATE TABLE trials (id INTEGER)"))
    commands.upgrade(engine)
    commands.downgrade(engine, "base")
    assert set(inspect(engine).get_table_names()) == {"trials", VERSION_TABLE}
    commands.upgrade(engine)
    assert not commands.differs_from_models(engine)


def test_killed_migration_leaves_nothing_behind(url):
    program = """
import os, signal, sys
from sqlalchemy import event
from eatnas_db.database.engine import create_engine_for
from eatnas_migrations import commands
engine = create_engine_for(sys.argv[1])
@event.listens_for(engine, "before_cursor_execute")
def _(connection, cursor, statement, *rest):
    if "CREATE TABLE eatnas_candidate" in statement:
        os.kill(os.getpid(), signal.SIGKILL)
commands.upgrade(engine)
"""
    killed = subprocess.run([sys.executable, "-c", program, url], check=False)
    assert killed.returncode == -signal.SIGKILL
    engine = create_engine_for(url)
    assert inspect(engine).get_table_names() == []
    commands.upgrade(engine)
    assert not commands.differs_from_models(engine)


@pytest.mark.parametrize(("version", "message"), [("0000", "older version"), ("9999", "newer version")])
def test_record_of_another_version_is_refused(engine, url, version, message):
    with transaction(engine) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'"))
    assert current_revision(engine) == version
    with pytest.raises(RecordError, match=message):
        open_record(url)


def test_file_without_a_record_is_refused(tmp_path):
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database at all, " * 100)
    with pytest.raises(RecordError, match="not an SQLite database"):
        open_record(f"sqlite:///{garbage}")
    with pytest.raises(RecordError, match="no record at"):
        open_record(f"sqlite:///{tmp_path / 'nothing.db'}")
