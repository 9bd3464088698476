"""After a user's mistake or a fault of the system, a command prints one clear line, exits with status 1 and changes
nothing.
"""

import ctypes
import gzip
import os
import resource
import sqlite3
import struct
from contextlib import contextmanager

import pytest

from eatnas_cli.app import main
from eatnas_db.schema.record import REVISION, VERSION_TABLE

SPEC = """
name: tiny
space: eatnas-tiny
data: {name: digits, train_images: 64, validation_images: 64}
training: {epochs: 1, batch_size: 32}
evolution: {population: 2, tournament: 2, lag: 2}
budget: {candidates: 4}
reevaluation: {top: 0}
"""
DROP_FROM_BOUNDING_SET, OVERRIDE_PERMISSIONS = 24, 1
KILOBYTES = 1000


@pytest.fixture
def eatnas(eatnas, eatnas_within):
    """Return a function that runs a command: in this process, unless the test makes the system refuse an operation."""
    return lambda *arguments, **options: (eatnas if "preexec_fn" in options else eatnas_within)(*arguments, **options)


def one_line(words):
    assert words.startswith("eatnas-db: ")
    assert words.count("\n") == 1
    return words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "is not YAML: line 1"),
        (SPEC + "data: {name: digits}", "the key 'data' is given twice, in line 4 and again in line 9"),
        (SPEC.replace("epochs: 1", "epochs: 1, epochs: 2"), "the key 'epochs' is given twice, in line 5"),
        (SPEC.replace("epochs: 1", "epochs: 1:30"), "training.epochs"),
        (SPEC + "1: 2", "unknown key '1'"),
        ("just words", "a spec must be a mapping"),
        ("", "a spec must be a mapping"),
        (SPEC.replace("digits", "digitz"), "did you mean digits?"),
        (SPEC.replace("epochs: 1", "epoch: 1"), "did you mean epochs?"),
        (SPEC.replace("eatnas-tiny", "eatnas-tinny"), "did you mean eatnas-tiny?"),
        (SPEC.replace("epochs: 1", "epochs: many"), "training.epochs"),
        (SPEC.replace("epochs: 1", "epochs: 0"), "greater than or equal to 1"),
        (SPEC.replace("tournament: 2", "tournament: 3"), "cannot be larger than population"),
        (SPEC.replace("name: tiny", "name: a b"), "name"),
        (SPEC + "objective: {max_params: 10}", "the smallest network"),
        (SPEC + "objective: {max_mult_adds: 10}", "the smallest network"),
        (SPEC.replace("train_images: 64", "train_images: 100000"), "exceed the 1437 training images"),
        (SPEC.replace("name: digits", "name: FashionMNIST"), "data prepare FashionMNIST"),
    ],
)
def test_bad_spec_gives_one_line_and_changes_nothing(record, eatnas, spec, text, words):
    assert words in one_line(eatnas("search", "create", spec(text), expect=1))
    assert eatnas("search", "list", "--format", "json") == "[]\n"


def test_estimate_of_a_bad_spec_is_reported_in_one_line(record, eatnas, spec):
    for text in (SPEC + "objective: {max_params: 10}", SPEC.replace("digits", "digitz")):
        one_line(eatnas("search", "estimate", spec(text), expect=1))


def test_missing_or_binary_spec_is_an_error(record, eatnas, tmp_path):
    assert "No such file" in one_line(eatnas("search", "create", "nowhere.yaml", expect=1))
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff")
    assert "not a text file" in one_line(eatnas("search", "create", "picture.yaml", expect=1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("epochs", "section.key=value"),
        ("training.epoch=3", "did you mean epochs?"),
        ("training.epochs=[", "not YAML"),
        ("training={epochs: 1, epochs: 2}", "the key 'epochs' is given twice"),
    ],
)
def test_bad_set_option_is_reported(record, eatnas, spec, change, words):
    assert words in one_line(eatnas("search", "create", spec(), "--set", change, expect=1))


def idx(images):
    return struct.pack(">IIII", 0x803, images, 28, 28) + bytes(images * 28 * 28)


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b""), gzip.compress(idx(10))[:40], gzip.compress(idx(10)[:-1])],
    ids=["empty", "garbage", "nothing packed", "truncated", "too short"],
)
def test_damaged_data_files_are_named(record, eatnas, spec, home, content):
    folder = home / "data" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(content)
    output = one_line(eatnas("search", "create", spec(SPEC.replace("digits", "FashionMNIST")), expect=1))
    assert "train-images-idx3-ubyte.gz" in output
    assert "data prepare" in output
    assert eatnas("search", "list", "--format", "json") == "[]\n"


def test_names_from_files_reach_the_terminal_as_escapes(record, eatnas_within, tmp_path, capsys):
    code = "/".join(["mb3_k3_d1_w1.0"] * 7)
    tmp_path.joinpath("s.csv").write_text(f"code,score,\x1b[31mred,{'n' * 999},\n{code},0.5,x,y,z\n")
    with pytest.raises(SystemExit):
        main(["--home", str(tmp_path / "home"), "db", "import", "s.csv", "--space", "eatnas-tiny"])
    note = capsys.readouterr().err
    assert note.startswith(r"note: s.csv: the import ignored these columns: \x1b[31mred, nnn")
    assert len(note) < 120
    options = ("--space", "eatnas-tiny", "--task", "t", "--name", "t")
    missing = one_line(eatnas_within("db", "import", "\x1b[2J\n.csv", *options, expect=1))
    assert missing == "eatnas-db: \\x1b[2J\\n.csv: No such file or directory\n"
    message = one_line(eatnas_within("db", "import", "s.csv", "--space", "eatnas-tiny", "--task", "", expect=1))
    assert "1 to 100 printable characters" in message


def test_messages_repeat_long_values_shortened(record, eatnas_within):
    message = one_line(eatnas_within("query", "best", "x" * 9999, expect=1))
    assert message.startswith("eatnas-db: no search named 'xxx")
    assert "xxx…xxx" in message
    assert len(message) < 500


@pytest.mark.slow
def test_unknown_data_set_cannot_be_prepared(eatnas):
    assert "did you mean CIFAR10?" in one_line(eatnas("data", "prepare", "CIFAR1", expect=1))


@pytest.mark.slow
def test_taken_and_unknown_search_names_are_reported(record, eatnas, spec):
    eatnas("search", "create", spec())
    assert "choose another name" in one_line(eatnas("search", "create", spec(), expect=1))
    assert "the newest searches are: tiny" in one_line(eatnas("query", "best", "tinny", expect=1))
    assert "the newest searches are: tiny" in one_line(eatnas("run", "tinny", expect=1))
    assert "the newest searches are: tiny" in one_line(eatnas("search", "watch", "tinny", expect=1))


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "tiny", "--slots", "0"],
        ["daemon", "start", "--slots", "0"],
        ["search", "extend", "tiny"],
        ["query", "best", "tiny", "--format", "xml"],
        ["candidate", "show", "first"],
        ["search", "destroy", "tiny"],
    ],
)
def test_wrong_usage_exits_with_status_two(eatnas, arguments):
    eatnas(*arguments, expect=2)


def test_home_below_a_file_is_reported(eatnas, tmp_path):
    (tmp_path / "file").touch()
    output = one_line(eatnas("init", expect=1, at=tmp_path / "file" / "home"))
    assert "choose another --home" in output
    assert "no record at" in one_line(eatnas("search", "list", expect=1, at=tmp_path / "file" / "home"))


@contextmanager
def files_limited_to(kilobytes):
    """Let this process write no larger files, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * KILOBYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kilobytes", [0, 30, 200])
def test_init_on_a_full_disk_can_be_repeated(eatnas, home, kilobytes):
    with files_limited_to(kilobytes):
        assert "is full" in one_line(eatnas("init", expect=1))
    assert not (home / "eatnas.db").exists()
    eatnas("init")
    assert "intact" in eatnas("db", "check")


def test_file_that_is_no_database_stays_unchanged(eatnas, home):
    home.mkdir()
    file = home / "eatnas.db"
    file.write_text("a letter to a friend\n" * 100)
    for command in (["init"], ["search", "list"], ["db", "upgrade"]):
        assert "is not an SQLite database" in one_line(eatnas(*command, expect=1))
    assert file.read_text() == "a letter to a friend\n" * 100


def test_database_of_another_program_is_reported_and_can_be_shared(eatnas, home):
    home.mkdir()
    with sqlite3.connect(home / "eatnas.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.execute("INSERT INTO theirs VALUES (1)")
    connection.close()
    assert "holds no eatnas-db record" in one_line(eatnas("search", "list", expect=1))
    eatnas("init")
    eatnas("db", "downgrade", "base", "--yes")
    connection = sqlite3.connect(home / "eatnas.db")
    assert connection.execute("SELECT x FROM theirs").fetchall() == [(1,)]
    connection.close()


@pytest.mark.parametrize(
    ("version", "words"),
    [("0000", "older version (0000; this program: {now}); run `eatnas-db db upgrade`"), ("9999", "newer version")],
)
def test_record_of_another_version_is_reported(record, eatnas, home, version, words):
    connection = sqlite3.connect(home / "eatnas.db")
    connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'")
    connection.commit()
    connection.close()
    for command in (["search", "list"], ["run", "tiny"], ["daemon", "start"]):
        assert words.format(now=REVISION) in one_line(eatnas(*command, expect=1))
    assert version in eatnas("db", "current")
    one_line(eatnas("db", "upgrade", expect=1))
    one_line(eatnas("db", "downgrade", "base", "--yes", expect=1))
    assert version in eatnas("db", "current")


def obey_permissions():
    # Drop this capability, so that even root needs permission to write.
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(DROP_FROM_BOUNDING_SET, OVERRIDE_PERMISSIONS, 0, 0, 0) != 0:
        os._exit(99)


@pytest.mark.slow
def test_read_only_record_is_reported(record, eatnas, spec, home):
    file = home / "eatnas.db"
    file.chmod(0o444)
    home.chmod(0o555)
    try:
        for command in (["search", "create", spec()], ["search", "pause", "tiny"]):
            assert "read-only" in one_line(eatnas(*command, expect=1, preexec_fn=obey_permissions))
        assert "Permission denied" in one_line(eatnas("db", "upgrade", expect=1, preexec_fn=obey_permissions))
    finally:
        home.chmod(0o755)
        file.chmod(0o644)
    assert eatnas("search", "list", "--format", "json") == "[]\n"


def test_database_of_another_kind_is_reported(eatnas):
    assert "sqlite:///FILE" in one_line(eatnas("--db", "mysql://host/db", "search", "list", expect=1))


def test_missing_server_is_reported(eatnas):
    assert "the connection to" in one_line(eatnas("--db", "postgresql://127.0.0.1:1/db", "search", "list", expect=1))


def test_candidate_commands_refuse_wrong_candidates(record, eatnas, spec):
    eatnas("search", "create", spec())
    assert "no candidate 99" in one_line(eatnas("candidate", "show", "99", expect=1))
    assert "no candidate 99" in one_line(eatnas("query", "events", "--candidate", "99", expect=1))
    assert "has not failed" in one_line(eatnas("candidate", "retry", "1", expect=1))
    assert "no log of candidate" in one_line(eatnas("candidate", "logs", "1", expect=1))
