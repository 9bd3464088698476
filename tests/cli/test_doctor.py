"""The findings and the advice of `doctor`."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from eatnas_cli import doctor
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.settings import load_settings


@pytest.fixture
def examined(tmp_path, home):
    def look(expect=0, **environment):
        command = [sys.executable, "-m", "eatnas_cli", "--home", str(home), "doctor", "--format", "json"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, **environment}
        )
        assert (done.returncode, done.stderr) == (expect, "")
        return {row["what"]: row for row in json.loads(done.stdout)}

    return look


@pytest.mark.slow
def test_doctor_finds_nothing_on_a_ready_machine(record, examined):
    output = examined()
    assert all(row["ok"] for row in output.values())
    assert {"system", "python", "torch", "GPUs", "home", "record", "MLflow", "digits"} <= set(output)
    assert {"database", "checkpoints", "logs", "MLflow store", "free disk"} <= set(output)
    assert output["storage"]["found"].endswith("no limit")


@pytest.mark.slow
def test_doctor_names_the_command_that_creates_a_record(examined):
    output = examined(expect=1)
    assert not output["record"]["ok"]
    assert output["record"]["advice"] == "run `eatnas-db init` to create one"


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["{", "{}", "null"])
def test_damaged_search_is_a_finding_of_its_own(tiny, home, spec):
    settings = load_settings({}, str(home))
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE eatnas_search SET spec = ?", (spec,))
    engine.dispose()
    damaged, digits = doctor._data(settings, searches=True)
    assert (damaged.what, damaged.ok, digits.what, digits.ok) == ("search tiny", False, "digits", True)
    assert damaged.advice.startswith("restore a backup, or correct the ")


def test_doctor_survives_a_silent_mlflow_and_masks_passwords(home):
    settings = load_settings({}, str(home))
    found = doctor._mlflow(settings, {"MLFLOW_TRACKING_URI": "http://user:secret@localhost:1/x"})
    assert found.ok
    assert found.found.startswith("http://localhost:1 does not answer")
    assert "MLFLOW_TRACKING_URI" in found.advice
    assert "secret" not in str(found)


def test_doctor_shows_that_mlflow_is_off(home):
    settings = load_settings({}, str(home))
    assert doctor._mlflow(settings, {"EATNAS_MLFLOW": "off"}).found.startswith("off; ")
    found = doctor._mlflow(settings, {"EATNAS_MLFLOW": "never"})
    assert (found.ok, found.found, found.advice) == (False, "EATNAS_MLFLOW is 'never'", "expected on or off")


def test_doctor_reports_a_bad_folder_and_a_full_disk(tmp_path, home, monkeypatch):
    home.write_text("")
    assert "is not a folder" in doctor._home(load_settings({}, str(home))).found
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    found = doctor._disk(tmp_path)
    assert (found.ok, found.advice.split(":")[0]) == (False, "free some disk space")


@pytest.mark.slow
def test_doctor_checks_the_data_of_open_searches(record, eatnas, spec, home, examined):
    folder = home / "images"
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (folder / name).mkdir(parents=True)
    from PIL import Image

    for number in range(8):
        for name in ("a", "b"):
            Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(folder / "train" / name / f"{number}.png")
    tree = f"{{name: ImageFolder, root: {folder}, resolution: 8, validation_images: 4}}"
    eatnas(
        "search",
        "create",
        spec(f"name: mine\nspace: eatnas-tiny\ndata: {tree}\nevolution: {{population: 2, tournament: 2, lag: 2}}\n"),
    )
    assert examined()["ImageFolder"]["found"] == "12 training images, 4 validation images"
    folder.rename(home / "away")
    output = examined(expect=1)["ImageFolder"]
    assert not output["ok"]
    assert "data prepare ImageFolder" in output["advice"]


def test_doctor_reports_a_hook_without_a_command(home):
    home.mkdir()
    settings = load_settings({}, str(home))
    (home / "config.yaml").write_text("hooks: {on_event: ./tell-me now}")
    found = doctor._hooks(settings)
    assert (found.ok, found.found) == (False, "program './tell-me' not found")
    (home / "tell-me").write_text("#!/bin/sh\n")
    assert not doctor._hooks(settings).ok
    (home / "tell-me").chmod(0o755)
    assert doctor._hooks(settings).found == f"{home / 'tell-me'} runs on finished, failed, paused, waiting"
    (home / "config.yaml").write_text("hooks: {on_event: 3}")
    assert "hooks.on_event is 3" in doctor._hooks(settings).found
