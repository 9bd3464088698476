from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from eatnas_cli import data
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.errors import DataError
from eatnas_db.settings import Settings, load_settings
from support.commands import run_command
from support.waiting import eventually


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "home").mkdir()
    return Settings(tmp_path / "home", f"sqlite:///{tmp_path}/home/eatnas.db")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for label in ("cat", "dog", "__MACOSX", "empty"):
        (tmp_path / "pets" / label).mkdir(parents=True)
    for number in range(10):
        for label in ("cat", "dog"):
            PIL.Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / "pets" / label / f"{number}.png")
    return tmp_path / "pets"


def prepare(settings: Settings, root: Path, *options: object) -> dict[str, Any]:
    arguments = ("prepare", "ImageFolder", "--root", root, "--format", "json", *options)
    answer: dict[str, Any] = json.loads(run_command(data.app, settings, *arguments))
    return answer


@pytest.mark.slow
def test_image_folder_is_prepared_with_and_without_a_resolution(settings: Settings, root: Path) -> None:
    answer = prepare(settings, root)
    assert (answer["classes"], answer["data_digest"]) == (2, None)
    assert [row["images"] for row in answer["images_by_class"]] == [10, 10]
    assert {row["path"] for row in answer["skipped"]} == {"__MACOSX", "empty"}
    assert not list((settings.cache / "images").glob("*.npy"))
    answer = prepare(settings, root, "--resolution", 8)
    assert (answer["train_images"], answer["validation_images"], len(answer["data_digest"])) == (16, 4, 64)
    assert len(list((settings.cache / "images").glob("*.npy"))) == 1
    table = run_command(data.app, settings, "prepare", "ImageFolder", "--root", root)
    assert "__MACOSX" in table
    assert "holds no files, so it is not a class" in table


def test_unreadable_images_are_listed_and_refused_or_skipped(settings: Settings, root: Path) -> None:
    (root / "dog" / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"has 1 unreadable image .*--on-unreadable skip"):
        prepare(settings, root, "--resolution", 8)
    answer = prepare(settings, root, "--resolution", 8, "--on-unreadable", "skip")
    assert answer["unreadable"][0]["path"] == "dog/bad.png"
    assert answer["train_images"] == 16


SPEC = """
name: pets
space: eatnas-tiny
data: {name: ImageFolder, root: ROOT, resolution: 8}
training: {epochs: 1, batch_size: 8}
evolution: {population: 2, tournament: 2, lag: 2}
budget: {candidates: 3}
reevaluation: {top: 0}
"""


@pytest.fixture
def search(record: None, tmp_path: Path, root: Path, eatnas: Any) -> str:
    """Create a search on the images and return the digest of its data."""
    (tmp_path / "spec.yaml").write_text(SPEC.replace("ROOT", str(root)))
    created = eatnas("search", "create", "spec.yaml", whole=True)
    assert f"{root}/empty is skipped: holds no files, so it is not a class" in created.stderr
    assert "__MACOSX" not in created.stderr
    digest: str = json.loads(eatnas("search", "show", "pets", "--format", "json"))["data_digest"]
    return digest


@pytest.mark.slow
def test_changed_images_of_a_search_are_named_with_both_digests(search: str, root: Path, eatnas: Any) -> None:
    (row,) = json.loads(eatnas("data", "verify", "pets", "--format", "json"))
    assert row == {"digest": "data_digest", "at_creation": search, "now": search, "equal": True}
    PIL.Image.new("RGB", (9, 9), (1, 2, 3)).save(root / "cat" / "3.png")
    for command in (("verify", "pets"), ("prepare", "ImageFolder", "--root", str(root))):
        words = eatnas("data", *command, expect=1)
        assert (
            f"search 'pets' have changed since it was created: their digest was {search} at creation and is " in words
        )
        assert words.count("\n") == 1 + ("note:" in words)


@pytest.mark.slow
def test_changed_images_are_found_after_a_damaged_search(search: str, home: Path, root: Path, eatnas: Any) -> None:
    eatnas("search", "create", "spec.yaml", "--set", "name=later")
    engine = open_record(load_settings({}, str(home)).database_url)
    with transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE eatnas_search SET spec = '{' WHERE name = 'pets'")
    engine.dispose()
    PIL.Image.new("RGB", (9, 9), (1, 2, 3)).save(root / "cat" / "3.png")
    words = eatnas("data", "prepare", "ImageFolder", "--root", str(root), expect=1)
    assert "note: the images of search 'pets' were not compared: the record holds text that is not JSON" in words
    assert f"search 'later' have changed since it was created: their digest was {search} at creation" in words


@pytest.mark.slow
@pytest.mark.usefixtures("without_mlflow")
def test_search_waits_for_changed_images_and_continues(search: str, root: Path, eatnas_within: Any, home: Path) -> None:
    def status() -> str:
        answer: str = json.loads(eatnas_within("search", "show", "pets", "--format", "json"))["status"]
        return answer

    (root / "cat" / "3.png").rename(root.parent / "away.png")
    command = [sys.executable, "-m", "eatnas_cli", "--home", str(home), "run", "pets"]
    with subprocess.Popen(command, cwd=root.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        try:
            eventually(lambda: f"their digest was {search} at creation and is " in status())
            (root.parent / "away.png").rename(root / "cat" / "3.png")
            assert run.wait(timeout=300) == 0
        finally:
            run.kill()
    shown = json.loads(eatnas_within("search", "show", "pets", "--format", "json"))
    assert (shown["status"], shown["settled"]) == ("finished", 3)
