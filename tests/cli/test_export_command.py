"""`export` writes files that other programs read, and `predict` classifies images with these files."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eatnas_db
from eatnas_training.export.prediction import PredictionRequest, predict
from support.recorded_search import make_record
from support.shared_folders import make_once

ROOT = Path(__file__).parents[2]
NOTHING_OF_OURS = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {"torch", "eatnas_db"} & {name.split(".")[0] for name in sys.modules}
"""


@pytest.fixture(scope="module")
def deleted_weights(tmp_path_factory):
    """Return a home with scored candidates whose weights were not kept."""
    folder = tmp_path_factory.mktemp("scored") / "home"
    record = make_record(folder, lambda path: f"sqlite:///{path / 'eatnas.db'}")
    record.engine.dispose()
    return folder


@pytest.fixture(scope="module")
def searched(tmp_path_factory, finished_digits, command_server):
    """Return a home with a finished search `digits` and its final models."""

    def make(folder):
        shutil.copytree(finished_digits, folder / "home")
        for line in ("search final digits --seeds 2 --epochs 1", "run digits.final --slots 1"):
            arguments = ["--home", str(folder / "home"), *line.split()]
            done = command_server.run(arguments, cwd=folder, env={**os.environ, "EATNAS_MLFLOW": "off"})
            assert done.returncode == 0, done.stderr

    return make_once(tmp_path_factory, "export", make) / "home"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (30, 20), np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "expect", "words"),
    [
        (["export", "small", "-o", "m"], 1, "were deleted: a search keeps only the weights of its population"),
        (["export", "small", "-o", "m", "--format", "keras"], 2, "unknown format 'keras'"),
        (["export", "small", "-o", "m", "--format", "pt3"], 2, "did you mean pt2?"),
        (["export", "smal", "-o", "m"], 1, "no search named 'smal'"),
        (["export", "99", "-o", "m"], 1, "no candidate 99"),
        (["export", "10", "-o", "m"], 1, "candidate 10 has no trained model: it is failed"),
        (["export", "9" * 5000, "-o", "m"], 1, "no candidate has an id of 5000 digits"),
        (["export", "99999999999999999999", "-o", "m"], 1, "no candidate has an id of 20 digits"),
        (["export", "9999999999999999999", "-o", "m"], 1, "no candidate 9999999999999999999"),
        (["export", "small", "-o", ""], 1, ". is a folder; give a file name"),
        (["export", "small", "-o", "."], 1, ". is a folder; give a file name"),
        (["export", "small", "-o", "/"], 1, "/ is a folder; give a file name"),
        (["export", "small", "-o", "..", "--format", "pt2"], 1, ".. is a folder; give a file name"),
        (["query", "lineage", "9" * 5000], 1, "no candidate has an id of 5000 digits"),
        (["export", "small", "-o", "missing/m"], 1, "folder missing does not exist"),
        (["export", "small"], 2, "--output"),
        (["predict", "m.onnx", "image.png"], 1, "no image image.png"),
    ],
)
def test_bad_input_is_reported_in_one_line(eatnas_within, deleted_weights, tmp_path, arguments, expect, words):
    message = eatnas_within(*arguments, expect=expect, at=deleted_weights)
    assert words in message
    assert expect == 2 or message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_kept(eatnas_within, deleted_weights, tmp_path):
    (tmp_path / "m.pt2").write_text("mine")
    message = eatnas_within("export", "small", "-o", "m", "--format", "onnx,pt2", expect=1, at=deleted_weights)
    assert message == "eatnas-db: m.pt2 already exists; --force overwrites it\n"
    assert (tmp_path / "m.pt2").read_text() == "mine"


@pytest.mark.slow
def test_final_model_is_exported_in_all_formats(eatnas, searched, tmp_path, image):
    out = eatnas("export", "digits", "-o", "best", "--format", "pt2,onnx", "--format", "python", at=searched)
    assert [line.split()[1] for line in out.splitlines()] == ["best.safetensors", "best.pt2", "best.onnx", "best.py"]
    model = eatnas_db.load_model(tmp_path / "best.safetensors")
    assert model.description.final
    assert model.description.lineage[-1]["search"] == "digits.final"
    assert set(model.description.metrics) == {"test_accuracy", "test_loss"}
    expected = [
        (row.rank, row.label) for row in predict(PredictionRequest(str(tmp_path / "best.safetensors"), [image], 3))
    ]
    # The commands in docs/export.md, which another test runs, cover the other formats.
    for file in ("best.onnx", "best.py"):
        answer = json.loads(eatnas("predict", file, image, "--format", "json", at=searched))
        assert [(row["rank"], row["label"]) for row in answer] == expected
    (best,) = predict(PredictionRequest(str(tmp_path / "best.pt2"), [image], 1))
    assert (best.rank, best.label) == expected[0]
    candidate = model.description.candidate
    assert list(eatnas_db.load_model(candidate, home=searched).state_dict()) == list(model.state_dict())


@pytest.mark.slow
def test_candidate_is_exported_with_its_recorded_accuracy(eatnas, searched, tmp_path):
    rows = json.loads(eatnas("query", "population", "digits", "--format", "json", at=searched))
    out = eatnas("export", str(rows[0]["id"]), "-o", "one.safetensors", at=searched)
    assert f"accuracy {rows[0]['fitness']:.4f} on the validation images" in out


@pytest.mark.slow
def test_onnx_without_its_packages_is_reported_in_one_line(eatnas, searched, tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "onnxruntime.py").write_text("raise ImportError('no module named onnxruntime')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "hidden")}
    message = eatnas("export", "digits", "-o", "m.onnx", expect=1, at=searched, env=environment)
    assert "pip install 'eatnas-db[export]'" in message
    assert message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["hidden"]


@pytest.mark.slow
def test_full_disk_leaves_nothing(eatnas, searched, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    message = eatnas("export", "digits", "-o", "m", expect=1, at=searched, preexec_fn=limit)
    assert "File too large" in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_missing_and_garbled_weights_are_named(eatnas, searched, tmp_path):
    home = tmp_path / "copy"
    shutil.copytree(searched, home)
    checkpoints = sorted((home / "artifacts").rglob("*.ckpt"))
    for path in checkpoints:
        path.write_bytes(path.read_bytes()[:-1])
    message = eatnas("export", "digits", "-o", "m", expect=1, at=home)
    assert "does not match its SHA-256" in message
    assert message.count("\n") == 1
    for path in checkpoints:
        path.unlink()
    assert "are not in this home" in eatnas("export", "digits", "-o", "m", expect=1, at=home)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.slow
def test_example_classifies_a_folder_with_onnxruntime_alone(tmp_path):
    draw = np.random.default_rng(1)
    for number, name in enumerate(("красный", "green")):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for index in range(20):
            pixels = draw.integers(0, 60, (21 + index, 33, 3), np.uint8)
            pixels[..., number] += 150
            Image.fromarray(pixels).save(folder / f"{index}.jpg")
    script = str(ROOT / "examples/folder_to_onnx.py")
    scripts = tmp_path / "bin"
    scripts.mkdir()
    (scripts / "eatnas-db").write_text(f'#!/bin/sh\nexec {sys.executable} -m eatnas_cli "$@"\n')
    (scripts / "eatnas-db").chmod(0o755)
    small = ["budget.candidates=2", "evolution.population=2", "evolution.tournament=2", "training.epochs=1"]
    small += ["data.resolution=13", "reevaluation.top=0", "training.batch_size=8", "space=eatnas-tiny"]
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "EATNAS_HOME": str(tmp_path / "h"),
        "EATNAS_MLFLOW": "off",
    }
    changes = [part for change in small for part in ("--set", change)]
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    subprocess.run([sys.executable, script, "search", "images", *changes], check=True, **run)
    image = "images/красный/7.jpg"
    command = [sys.executable, "-c", NOTHING_OF_OURS, script, "classify", "images.onnx", image]
    classified = subprocess.run(command, check=True, **run).stdout
    command = [sys.executable, "-m", "eatnas_cli", "predict", "images.onnx", image, "--top", "1", "--format", "json"]
    (best,) = json.loads(subprocess.run(command, check=True, **run).stdout)
    assert classified == f"{image}: {best['label']} ({best['probability']:.4f})\n"


LOADED = """
import json, pathlib, sys
import mlflow, pandas

mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits-net/1")
rows = model.predict(pandas.DataFrame({"image": [pathlib.Path(sys.argv[2]).read_bytes()]}))
version = mlflow.MlflowClient().get_model_version("digits-net", 1)
run = mlflow.MlflowClient().get_run(version.run_id)
names = [column.name for column in model.metadata.signature.inputs]
logged = mlflow.MlflowClient().get_logged_model(version.source.removeprefix("models:/"))
assert (logged.source_run_id, logged.experiment_id) == (run.info.run_id, run.info.experiment_id)
assert "/mlflow-artifacts/" in logged.artifact_location, logged.artifact_location
print(json.dumps([rows, run.data.tags["eatnas.state"], run.info.status, names]))
assert "eatnas_db" not in sys.modules
"""


@pytest.mark.slow
def test_registered_model_classifies_as_the_file_does(eatnas, searched, tmp_path, image):
    out = eatnas("export", "digits", "-o", "best", "--register", "digits-net", at=searched, whole=True)
    assert "registered as digits-net version 1" in out.stdout
    assert out.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "image.png"]
    (best,) = json.loads(eatnas("predict", "best.safetensors", image, "--top", "1", "--format", "json", at=searched))
    command = [sys.executable, "-c", LOADED, f"sqlite:///{searched / 'mlflow.db'}", image]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    (row,), state, status, names = json.loads(done.stdout.splitlines()[-1])
    assert row["label"] == best["label"]
    assert row["probability"] == pytest.approx(best["probability"], abs=1e-5)
    assert (state, status, names) == ("scored", "FINISHED", ["image"])
