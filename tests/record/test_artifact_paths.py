"""Checkpoint files are read and deleted only inside the artifacts folder, and each host collects its own."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some
from sqlalchemy import insert, select, update

from eatnas_daemon.supervision.supervisor import Supervisor
from eatnas_daemon.workers.launcher import Launcher
from eatnas_db.artifact_paths import find_artifact
from eatnas_db.checkpoint_collection import collect_checkpoints
from eatnas_db.checkpoint_files import list_checkpoint_names
from eatnas_db.database.engine import create_engine_for
from eatnas_db.database.transactions import transaction
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import checkpoint
from eatnas_db.training_record import CheckpointRecord
from eatnas_db.unchanged_files import GRACE_SECONDS, UnchangedFiles
from support.searches import FAST_WORKER, create_home, fetch_rows, supervise_search

PARTS = some.lists(some.sampled_from(["..", ".", "", "a", "checkpoints", "link", "/", "~", "a\0", "..\\"]), max_size=5)


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    """Return an artifacts folder with a link to a place outside it, and a link to a place inside it."""
    folder = tmp_path_factory.mktemp("linked")
    artifacts = folder / "artifacts"
    (artifacts / "checkpoints").mkdir(parents=True)
    (artifacts / "link").symlink_to(folder)
    (artifacts / "inside").symlink_to(artifacts / "checkpoints")
    (artifacts / "loop").symlink_to(artifacts / "loop")
    (folder / "also").symlink_to(artifacts)
    return artifacts


@given(PARTS)
def test_a_found_artifact_is_always_below_the_folder(linked, parts):
    stored = "/".join(parts)
    found = find_artifact(linked, stored)
    assert found is None or found.resolve().is_relative_to(linked.resolve())


@pytest.mark.parametrize(
    "stored",
    ["/etc/passwd", "../x", "checkpoints/../../x", "link/x", "link", "loop/x", "", ".", "a\0b", "//x"],
)
def test_paths_out_of_the_folder_name_no_artifact(linked, stored):
    assert find_artifact(linked, stored) is None


def test_paths_below_the_folder_name_an_artifact(linked):
    assert find_artifact(linked, "checkpoints/1/x.ckpt") == linked / "checkpoints/1/x.ckpt"
    assert find_artifact(linked, "inside/x.ckpt") == linked / "inside/x.ckpt"
    also = linked.parent / "also"
    assert find_artifact(also, "checkpoints/x") == also / "checkpoints/x"


def test_a_path_out_of_the_folder_is_not_recorded():
    for path in ("/etc/passwd", "checkpoints/1/../../../x", ""):
        with pytest.raises(ValueError, match="leads out of the artifacts folder"):
            CheckpointRecord(path, "digest", 1, 0, 0)


def test_a_link_is_no_checkpoint(tmp_path):
    (tmp_path / "secret").write_bytes(b"x" * 100)
    (tmp_path / "c1-a1-e1-b0.ckpt").symlink_to(tmp_path / "secret")
    assert list_checkpoint_names(tmp_path, 1) == []


def test_a_search_deletes_no_file_outside_its_home(tmp_path):
    home = create_home(tmp_path / "home", budget__candidates=10)
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    hostile = [str(precious), "../../precious", "checkpoints/../../../precious", "link/precious"]
    home.artifacts.mkdir()
    (home.artifacts / "link").symlink_to(tmp_path)
    engine = create_engine_for(home.database_url)
    inserted: set[int] = set()

    def forge(_: Supervisor) -> None:
        with transaction(engine) as connection:
            ids = set(connection.execute(select(checkpoint.c.candidate_id)).scalars()) - inserted
            for candidate_id in ids:
                row = {"candidate_id": candidate_id, "attempt": 1, "epoch": 0, "batch": 0, "digest": "d", "bytes": 7}
                connection.execute(insert(checkpoint), [row | {"path": path, "created_at": 0.0} for path in hostile])
            inserted.update(ids)

    supervise_search(home, on_tick=forge)
    engine.dispose()
    assert len(inserted) > 3
    assert precious.read_text() == "keep me"


def file_at(home, name):
    file = home.artifacts / "checkpoints" / "1" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")
    os.utime(file, (1, 1))  # an arbitrary time, as if the clock had been changed
    return file


SIMILAR_NAMES = [
    "cID-a1-e4-b0.ckpt.bak",
    "cID-a1-e4-b0.ckpt\n",
    "cID-a1-e4-b0.CKPT",
    "cID-accuracy.png",
    "cID-augmented.ckpt",
    "c0ID-a1-e4-b0.ckpt",
    "c٣-a1-e4-b0.ckpt",
    f"c{'9' * 30}-a1-e4-b0.ckpt",
    ".cID-a1-e4-b0.ckpt",
    ".cID-a1-e4-b0.ckpt.bak",
    ".cID-a1-e4-b0.ckpt.0123abcd.bak",
    ".cID-accuracy.png.0123abcd",
]
"""Names of files that a user may have created, but that eatnas-db never writes."""


def test_unrecorded_files_of_ended_candidates_are_collected(tmp_path):
    home = create_home(tmp_path / "home")
    engine = create_engine_for(home.database_url)
    ended, pending, parent, child, grandchild = [row.id for row in fetch_rows(home, select(candidate.c.id).limit(5))]
    with transaction(engine) as connection:
        for id_, values in {
            ended: {"state": "scored", "fitness": 0.5},
            parent: {"state": "scored", "fitness": 0.5},
            child: {"state": "scored", "fitness": 0.5, "parent_id": parent},
            grandchild: {"parent_id": child},
        }.items():
            connection.execute(update(candidate).where(candidate.c.id == id_).values(**values))
        recorded = f"checkpoints/1/c{ended}-a2-e3-b0.ckpt"
        row = {"candidate_id": ended, "attempt": 2, "epoch": 3, "batch": 0, "digest": "d", "bytes": 1}
        connection.execute(insert(checkpoint), [row | {"path": recorded, "created_at": 0.0}])
    kept = [
        file_at(home, f"c{ended}-a2-e3-b0.ckpt"),
        file_at(home, f"c{pending}-a1-e1-b0.ckpt"),
        growing := file_at(home, f".c{ended}-a1-e1-b0.ckpt.0123abcd"),
        file_at(home, f"c{parent}-a0-e3-b0.ckpt"),
        replaced := file_at(home, "c999-a1-e1-b0.ckpt"),
        file_at(home, "notes.txt"),
        *(file_at(home, name.replace("ID", str(ended))) for name in SIMILAR_NAMES),
    ]
    gone = [
        file_at(home, f"c{ended}-a1-e1-b0.ckpt"),
        file_at(home, f"c{ended}-a0-e3-b0.ckpt"),
        file_at(home, f"c{parent}-a1-e3-b0.ckpt"),
        file_at(home, f".c{ended}-a1-e2-b0.ckpt.0123abcd"),
        file_at(home, "c999-a1-e2-b0.ckpt"),
    ]
    unchanged = UnchangedFiles()
    collected = collect_checkpoints(engine, home.artifacts, unchanged, 0.0)
    assert collected == len(gone) - 2
    growing.write_bytes(b"xx")
    os.utime(growing, (1, 1))
    replaced.write_bytes(b"y")
    collected += collect_checkpoints(engine, home.artifacts, unchanged, GRACE_SECONDS + 1)
    assert collected == len(gone)
    assert [file for file in kept if not file.exists()] == []
    assert [file for file in gone if file.exists()] == []
    engine.dispose()


@pytest.mark.slow
def test_each_of_two_hosts_keeps_only_recorded_files(tmp_path):
    home = create_home(tmp_path / "home")
    elsewhere = type(home)(tmp_path / "elsewhere", home.database_url, "elsewhere")
    supervise_search(home, on_tick=lambda supervisor: stop_after(supervisor, home, 8))
    assert list(home.artifacts.rglob("*.ckpt"))
    supervise_search(elsewhere)
    engine = create_engine_for(home.database_url)
    Supervisor(engine, home, Launcher(home.logs, FAST_WORKER), slots=1, host_name="here", only="s").run()
    engine.dispose()
    recorded = {row.path for row in fetch_rows(home, select(checkpoint.c.path))}
    of_hosts = [files_of(settings.artifacts) for settings in (home, elsewhere)]
    assert of_hosts[0] | of_hosts[1] == recorded
    assert not of_hosts[0] & of_hosts[1]


def stop_after(supervisor, settings, count):
    if len(fetch_rows(settings, select(candidate.c.id).where(candidate.c.state == "scored"))) >= count:
        supervisor.stop()


def files_of(artifacts: Path) -> set[str]:
    return {path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*.ckpt")}
