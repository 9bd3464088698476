"""Strings that cannot be printed or stored are refused or replaced, without a traceback or a damaged record."""

import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper

import pytest
from sqlalchemy import select

from eatnas_cli.app import main
from eatnas_daemon.event_log import open_log
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.spec import parse_spec
from eatnas_db.errors import InvalidSpecError, RecordError
from eatnas_db.events import record_event
from eatnas_db.schema.events import event
from eatnas_migrations import commands
from support.empty_records import create_empty_record

QUESTION = "SELECT 'é€😀─' AS word"
NOT_UTF8 = "caf\udce9"


@pytest.fixture
def on_terminal(home):
    """Return a function that runs a command on a terminal with the given encoding and returns the output."""

    def call(encoding, *arguments):
        out = TextIOWrapper(BytesIO(), encoding=encoding)
        err = TextIOWrapper(BytesIO(), encoding=encoding)
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
            main(["--home", str(home), *arguments])
        out.flush()
        assert (left.value.code or 0) == 0
        return out.buffer.getvalue().decode(encoding)

    return call


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "shift_jis", "utf-8"])
def test_every_terminal_shows_tables(on_terminal, tiny, encoding):
    for command in (["search", "list"], ["search", "show", "tiny"], ["space", "show"]):
        assert "─" in (text := on_terminal(encoding, *command)) or "---" in text
    on_terminal(encoding, "query", "best", "tiny")
    on_terminal(encoding, "--help")
    assert "word" in on_terminal(encoding, "query", "sql", QUESTION)
    assert "word" in on_terminal(encoding, "query", "sql", QUESTION, "--format", "csv")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_exact_on_every_terminal(on_terminal, tiny, encoding):
    text = on_terminal(encoding, "query", "sql", QUESTION, "--format", "json")
    assert json.loads(text) == [{"word": "é€😀─"}]


@pytest.mark.parametrize(
    "arguments",
    [
        ("query", "best", NOT_UTF8),
        ("query", "best", "tiny", "--where", f"origin={NOT_UTF8}"),
        ("query", "events", "--kind", NOT_UTF8),
        ("query", "sql", f"SELECT '{NOT_UTF8}'"),
        ("search", "create", f"{NOT_UTF8}.yaml"),
        ("db", "backup", NOT_UTF8),
    ],
)
def test_arguments_that_are_no_text_are_refused(eatnas_within, tiny, arguments):
    message = eatnas_within(*arguments, expect=1)
    assert "caf\\udce9" in message
    assert "is not valid text in utf-8; rename the file, or type the text in UTF-8" in message


def test_a_c_locale_is_used_or_refused_with_advice(home, tiny, tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "eatnas_cli", "--home"]
    options = {"capture_output": True, "text": True, "check": False, "env": environment}
    listed = subprocess.run([*command, str(home), "search", "list"], **options)
    assert (listed.returncode, "tiny" in listed.stdout) == (0, True)
    refused = subprocess.run([*command, str(tmp_path / "é"), "search", "list"], **options)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "set PYTHONUTF8=1" in refused.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: caf\xe9\n", "is not a text file in UTF-8"),
        ("name: tiny\n".encode("utf-16"), "is not a text file in UTF-8"),
        (b'name: "a\\ud800"\n', "the text a\\ud800 has characters that cannot be stored"),
        (b'name: tiny\n"a\\0b": 1\n', "the text a\\x00b has characters that cannot be stored"),
    ],
)
def test_a_spec_that_is_no_storable_text_is_refused(eatnas_within, tiny, tmp_path, content, message):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    assert message in eatnas_within("search", "create", str(file), expect=1)


def test_a_value_that_is_no_storable_text_is_refused(eatnas_within, tiny, spec):
    changes = ("--set", "name=other", "--set", r'data.root="\ud800"')
    assert "cannot be stored" in eatnas_within("search", "create", spec(), *changes, expect=1)
    for root in ("a\udce9", "a\0b"):
        with pytest.raises(InvalidSpecError, match="cannot be stored"):
            parse_spec({"name": "s", "data": {"name": "ImageFolder", "root": root}})


def test_a_daemon_log_takes_any_text(tmp_path):
    log = open_log(tmp_path / "daemon.log")
    log.info("a %s", NOT_UTF8)
    log.handlers[0].close()
    assert "caf\\udce9" in (tmp_path / "daemon.log").read_text(encoding="utf-8")


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request, tmp_path):
    file = f"sqlite:///{tmp_path / 'eatnas.db'}"
    url = file if request.param == "sqlite" else request.getfixturevalue("postgres_record_url")
    if url == file:
        create_empty_record(url).dispose()
    engine = open_record(url)
    yield engine
    engine.dispose()


def test_json_of_the_record_holds_no_unstorable_text(engine):
    detail = {"message": f"{NOT_UTF8}\0", NOT_UTF8: [{"a": "\ud800"}, ("b\0",)], "fine": "é😀\\ud800"}
    with transaction(engine) as connection:
        record_event(connection, 0.0, "restored", detail=detail)
    with read_transaction(engine) as connection:
        (stored,) = connection.execute(select(event.c.detail)).scalars()
    replaced = json.loads(stored) if isinstance(stored, str) else stored
    assert replaced == {"message": "caf��", "caf�": [{"a": "�"}, ["b�"]], "fine": "é😀\\ud800"}


def test_an_unstorable_parameter_is_reported_in_one_line(engine):
    query = select(event.c.id).where(event.c.kind == NOT_UTF8)
    refused = pytest.raises(RecordError, match=r"caf\\udce9 has characters")
    with refused as raised, read_transaction(engine) as connection:
        connection.execute(query).all()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_is_not_utf8_is_refused(postgres, encoding):
    name = f"not_utf8_{encoding.lower()}"
    postgres.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
    for use in (lambda url: commands.upgrade(create_engine_for(url)), open_record):
        with pytest.raises(RecordError, match=f"has the encoding {encoding}.*ENCODING 'UTF8'"):
            use(postgres.url(name))


def test_client_encoding_does_not_change_texts(postgres_record_url):
    url = f"{postgres_record_url}&client_encoding=latin1"
    engine = open_record(url)
    with transaction(engine) as connection:
        record_event(connection, 0.0, "名", detail={"名": "€"})
        assert connection.execute(select(event.c.kind)).scalars().all() == ["名"]
    engine.dispose()
