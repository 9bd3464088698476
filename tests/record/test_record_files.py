"""Importing an exported record restores every row, and damaged files change nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction
from eatnas_db.errors import ConflictError, RecordError
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.record_files import FileFormat, export_record, import_record
from eatnas_db.schema.searches import search
from support.empty_records import create_empty_record
from support.recorded_search import Record, make_record

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Return a record that all tests read."""
    return make_record(tmp_path_factory.mktemp("home"), lambda folder: f"sqlite:///{folder / 'eatnas.db'}")


@pytest.fixture(scope="module")
def fresh_export(record: Record, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "out"
    export_record(record.engine, folder, FileFormat.JSONL)
    return folder


@pytest.fixture
def exported(fresh_export: Path, tmp_path: Path) -> Path:
    """Return an export that the test may damage."""
    folder = tmp_path / "out"
    shutil.copytree(fresh_export, folder)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Engine:
    """Return an engine for an empty record."""
    create_empty_record(f"sqlite:///{tmp_path / 'new.db'}").dispose()
    return open_record(f"sqlite:///{tmp_path / 'new.db'}")


def fingerprint(engine: Engine) -> str:
    with read_transaction(engine) as connection:
        (search_id,) = connection.execute(select(search.c.id)).scalars()
        return get_fingerprint(connection, search_id)


@pytest.mark.parametrize("files", FileFormat)
def test_imported_record_has_the_same_fingerprint(
    record: Record, target: Engine, tmp_path: Path, files: FileFormat
) -> None:
    written = export_record(record.engine, tmp_path / "out", files)

    assert import_record(target, tmp_path / "out") == written

    assert fingerprint(target) == fingerprint(record.engine)
    again = export_record(target, tmp_path / "again", FileFormat.JSONL)
    assert again == written


@pytest.mark.slow
def test_server_and_file_exchange_records(
    record: Record, target: Engine, tmp_path: Path, postgres_record_url: str
) -> None:
    export_record(record.engine, tmp_path / "out", FileFormat.PARQUET)
    server = open_record(postgres_record_url)
    import_record(server, tmp_path / "out")
    export_record(server, tmp_path / "back", FileFormat.JSONL)

    import_record(target, tmp_path / "back")

    assert fingerprint(target) == fingerprint(server) == fingerprint(record.engine)


def edit_manifest(**changes: object) -> Damage:
    def edit(folder: Path) -> None:
        file = folder / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def edit_lines(change: Callable[[list[str]], list[str]]) -> Damage:
    def edit(folder: Path) -> None:
        file = folder / "eatnas_candidate.jsonl"
        file.write_text("".join(change(file.read_text().splitlines(keepends=True))))

    return edit


def replaced(name: str, make: Callable[[Path], object]) -> Damage:
    def edit(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return edit


DAMAGES: list[tuple[Damage, str]] = [
    (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
    (lambda folder: (folder / "manifest.json").write_text("{"), "is damaged, or another program wrote it"),
    (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "is damaged, or another program wrote it"),
    (edit_manifest(format="wandb export"), "has the format 'wandb export'"),
    (edit_manifest(revision="9999"), "exported from schema version 9999"),
    (edit_manifest(tables=[]), "lacks the table"),
    (edit_manifest(last_ids={"eatnas_candidate": float("inf")}), "is damaged, or another program wrote it"),
    (lambda folder: (folder / "manifest.json").write_text("[" * 200_000), "is damaged, or another program wrote it"),
    (replaced("manifest.json", os.mkfifo), "is damaged, or another program wrote it"),
    (replaced("manifest.json", Path.mkdir), "Is a directory"),
    (replaced("manifest.json", lambda file: file.symlink_to("/dev/zero")), "is a device or a socket"),
    (replaced("eatnas_candidate.jsonl", os.mkfifo), "is not a regular file"),
    (replaced("eatnas_candidate.jsonl", lambda file: file.symlink_to("/dev/zero")), "is not a regular file"),
    (edit_manifest(files="csv"), "is damaged, or another program wrote it"),
    (edit_manifest(last_ids=[1]), "is damaged, or another program wrote it"),
    (edit_manifest(last_ids={"eatnas_candidate": 10**30}), "an id in last_ids"),
    (edit_lines(lambda lines: ["[" * 100_000, *lines[1:]]), "line 1 of .* is not JSON"),
    (lambda folder: (folder / "eatnas_candidate.jsonl").unlink(), "eatnas_candidate.jsonl is missing"),
    (edit_lines(lambda lines: lines[:-1]), "have changed since the export"),
    (edit_lines(lambda lines: [*lines, lines[0]]), "cannot be stored"),
    (edit_lines(lambda lines: [*lines[:3], lines[3][:20]]), "line 4 of .* is not JSON"),
    (edit_lines(lambda lines: [line.replace('"id": ', '"no": ') for line in lines]), "row 1 of .* the columns of"),
    (edit_lines(lambda lines: ["[]\n", *lines[1:]]), "row 1 of .* the columns of"),
    (edit_lines(lambda lines: [line.replace('"birth": 3', '"birth": 1e99') for line in lines]), "changed|exported"),
    (edit_lines(lambda lines: [line.replace('"id": ', '"id": {}, "x": ') for line in lines]), "the columns of"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_export_changes_nothing(exported: Path, target: Engine, damage: Damage, message: str) -> None:
    damage(exported)

    with pytest.raises(RecordError, match=message) as error:
        import_record(target, exported)

    assert "\n" not in str(error.value)
    with read_transaction(target) as connection:
        assert connection.execute(select(search.c.id)).all() == []


def test_record_with_searches_is_not_overwritten(record: Record, exported: Path) -> None:
    with pytest.raises(ConflictError, match="not empty"):
        import_record(record.engine, exported)


def test_existing_folder_is_kept(record: Record, exported: Path) -> None:
    before = sorted(file.name for file in exported.iterdir())
    with pytest.raises(ConflictError, match="already exists"):
        export_record(record.engine, exported, FileFormat.JSONL)
    assert sorted(file.name for file in exported.iterdir()) == before


def test_failed_export_leaves_nothing(target: Engine, tmp_path: Path) -> None:
    with target.begin() as connection:
        connection.exec_driver_sql("DROP TABLE eatnas_hold")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(Exception, match="eatnas_hold"):
        export_record(target, tmp_path / "out", FileFormat.JSONL)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
