"""URLs may contain hostile paths, and are printed without their secrets."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from sqlalchemy import text

from eatnas_cli import doctor
from eatnas_daemon.mlflow.client import describe_error, find_artifact_folder
from eatnas_db.database.dialects import url_of
from eatnas_db.database.engine import create_engine_for, open_record
from eatnas_db.errors import DataError, RecordError
from eatnas_db.settings import load_settings
from eatnas_db.urls import HIDDEN_URL, hide_passwords, mlflow_store_url, printable_url, sqlite_file, sqlite_url
from eatnas_migrations import commands
from eatnas_training.data import download

HOSTILE_NAMES = [
    "a%20b",
    "a%2Fb",
    "100%",
    "what?",
    "x?mode=ro",
    "no#1",
    "file:x",
    "é ü",
    "名",
    "a b",
    "a'b\"c",
    ":memory:",
]
NAMES = some.text(
    some.characters(exclude_characters="/\0", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12
).filter(lambda name: name not in (".", ".."))


@given(NAMES, NAMES)
def test_the_url_of_a_file_names_that_file(folder, name):
    file = Path("/home", folder, name)
    assert sqlite_file(sqlite_url(file)) == file
    engine = create_engine_for(sqlite_url(file))
    assert engine.url.database == str(file)
    assert sqlite_file(url_of(engine)) == file
    assert find_artifact_folder(mlflow_store_url(file)) == file.parent / "mlflow-artifacts"


@settings(max_examples=20)
@given(some.one_of(some.sampled_from(HOSTILE_NAMES), NAMES))
def test_a_record_is_created_in_the_named_folder(tmp_path_factory, name):
    home = tmp_path_factory.mktemp("homes") / name
    home.mkdir()
    loaded = load_settings({}, str(home))
    engine = create_engine_for(loaded.database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (a)"))
    engine.dispose()
    assert loaded.database_file == home / "eatnas.db"
    assert {file.name for file in home.iterdir()} == {"eatnas.db"}
    assert [folder.name for folder in home.parent.iterdir()] == [name]
    given_url = load_settings({"EATNAS_DB_URL": loaded.database_url}, str(home))
    assert given_url == loaded


def test_a_tilde_is_expanded_in_home_database_and_store(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded = load_settings({"EATNAS_HOME": "~/nas", "EATNAS_DB_URL": "sqlite:///~/db/x.db"})
    assert (loaded.home, loaded.database_file) == (tmp_path / "nas", tmp_path / "db" / "x.db")
    assert loaded.tracking_uri({"MLFLOW_TRACKING_URI": "sqlite:///~/m.db"}) == f"sqlite:///{tmp_path}/m.db"
    assert loaded.tracking_uri({"MLFLOW_TRACKING_URI": "~/runs"}) == str(tmp_path / "runs")
    assert load_settings({}, "~").home == tmp_path
    assert load_settings({}, "~nobody-of-this-name/x").home == Path("~nobody-of-this-name/x").absolute()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////data/what?/x.db", "write %3F for a question mark"),
        ("sqlite:///", "names no file"),
        ("sqlite:////data/%ff%00.db", "not valid UTF-8"),
        ("host=h password=secret dbname=d", "cannot be parsed and is not shown"),
        ("me:secret@h/d", "cannot be parsed and is not shown"),
        ("secret", "cannot be parsed and is not shown"),
    ],
)
def test_an_unusable_database_url_is_refused(url, message):
    with pytest.raises(RecordError, match=message) as raised:
        load_settings({}, "/home", url)
    assert "secret" not in str(raised.value)


def test_names_that_are_no_text_are_refused():
    for environment in (
        {"EATNAS_HOME": "/a\udce9"},
        {"EATNAS_HOST": "a\udce9"},
        {"EATNAS_DB_URL": "sqlite:////\udce9"},
    ):
        with pytest.raises(RecordError, match=r"\\udce9 is not valid UTF-8"):
            load_settings(environment)


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("postgresql://me:se:cr/et@h:5/d?sslpassword=secret", "postgresql://me@h:5/d"),
        ("postgresql://me:secret@h1:5,h2:6/d", "postgresql://me@h1:5,h2:6/d"),
        ("postgresql://me:secret@[::1]:5/d", "postgresql://me@[::1]:5/d"),
        ("postgresql://:secret@h", "postgresql://h"),
        ("postgresql://h/d?user=me&password=secret", "postgresql://h/d"),
        ("postgresql+psycopg://postgres:@/d?host=/run", "postgresql+psycopg://postgres@/d"),
        ("http://h:5000/path#secret", "http://h:5000/path"),
        ("file:///data/a b/runs", "file:///data/a b/runs"),
        ("sqlite:////home/a@b/c?d", "sqlite:////home/a@b/c?d"),
        ("postgresql://me:secr@et@h/d", HIDDEN_URL),
        ("postgresql://me:se/cr@et@h/d", HIDDEN_URL),
        ("postgresql://me:1?secret@h/d", HIDDEN_URL),
        ("postgresql://me:1#secret@h/d", HIDDEN_URL),
        ("postgresql://me:secret", HIDDEN_URL),
        ("postgresql://me:99999/d", HIDDEN_URL),
        ("postgresql://h/d?password=a@secret", HIDDEN_URL),
        ("postgresql://me:se cret@h/d", HIDDEN_URL),
        ("postgresql://me:se\ncret@h/d", HIDDEN_URL),
        ("secret", HIDDEN_URL),
    ],
)
def test_a_printed_url_holds_no_secret(url, printed):
    assert printable_url(url) == printed


@given(some.text(min_size=4, max_size=20), some.sampled_from(["postgresql://u:{}@h:5/d", "http://u:{}@h/?password={}"]))
def test_no_part_of_a_password_is_printed(password, template):
    password += "zq9"
    url = template.format(password, password)
    assert "zq9" not in printable_url(url)
    assert "zq9" not in describe_error(url, ValueError(f"no {url}: bad"))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("http://me:secret@host:5000/x", "http://me:***@host:5000/x"),
        ("failed at postgresql+psycopg://me:se/cr@et@host/db: no", f"failed at {HIDDEN_URL}: no"),
        ("see 'http://me:secret@host:5000/x?token=1'.", "see 'http://me:***@host:5000/x'."),
        ("invalid dsn: host=h password=secret", "invalid dsn: host=h password=***"),
        ("invalid dsn: password='se cret' host=h", "invalid dsn: password=*** host=h"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
    ],
)
def test_passwords_in_a_text_are_hidden(shown, expected):
    assert hide_passwords(shown) == expected


@pytest.mark.parametrize(
    "url", ["postgresql://me:secr@et@h/d", "postgresql://me:1/secret@@h/d", "postgresql://h:port/secret"]
)
def test_an_ambiguous_url_is_never_opened(url):
    for use in (open_record, create_engine_for):
        with pytest.raises(RecordError, match="write @ as %40") as raised:
            use(url)
        assert "secr" not in str(raised.value)


def test_a_backup_of_a_hostile_home_is_the_record(tmp_path):
    home = tmp_path / "what? #1 100%20é"
    home.mkdir()
    loaded = load_settings({}, str(home))
    commands.upgrade(create_engine_for(loaded.database_url))
    open_record(loaded.database_url).dispose()
    with sqlite3.connect(home / "eatnas.db") as connection:
        assert connection.execute("SELECT count(*) FROM eatnas_record").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize("option", ["nosuch=1", "connect_timeout=soon"])
def test_an_invalid_option_of_a_server_is_explained(option):
    pytest.importorskip("psycopg")
    with pytest.raises(RecordError, match=r"database d on 127\.0\.0\.1:1 has an invalid option") as raised:
        open_record(f"postgresql://me:secret@127.0.0.1:1/d?{option}&password=secret")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("uri", ["http://me:se/cret@localhost:1", "http://me:secret@localhost:1?password=secret"])
def test_doctor_reports_a_tracking_server_without_its_password(tmp_path, uri):
    found = doctor._mlflow(load_settings({}, str(tmp_path)), {"MLFLOW_TRACKING_URI": uri})
    assert found.found.startswith("http://localhost:1 does not answer")


def test_mirror_error_does_not_print_the_password(tmp_path, monkeypatch):
    monkeypatch.setenv("EATNAS_DATA_MIRROR", "http://me:secret@localhost:1")
    with pytest.raises(DataError, match="EATNAS_DATA_MIRROR holds a user name or a password") as raised:
        download.download_missing(tmp_path, "MNIST", download.DOWNLOADS["MNIST"])
    assert "secret" not in str(raised.value)
