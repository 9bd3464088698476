"""Exported files contain the same network in every format, are verified, and are written completely or not at all."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import eatnas_db
from eatnas_db.checkpoint_files import write_checkpoint
from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.errors import DataError
from eatnas_protocol.messages import Assign
from eatnas_training.data.decoding import decode_image
from eatnas_training.data.loading import load_data
from eatnas_training.export.description import ModelDescription, Preprocessing
from eatnas_training.export.exporting import ExportRequest, describe_model, export_model
from eatnas_training.export.formats import WRITERS
from eatnas_training.export.model_files import open_model_file
from eatnas_training.export.prediction import PredictionRequest, predict
from eatnas_training.export.preprocessing import ImageTransform, crop_and_resize
from eatnas_training.export.python_module import write_module
from eatnas_training.export.validation_images import ValidationImages, load_validation
from eatnas_training.export.verification import require_recorded_accuracy, verify_file
from eatnas_training.network import Network
from support.exports import export_request
from support.trainings import MakeAssignment, run_training

SUFFIXES = {"safetensors": ".safetensors", "pt2": ".pt2", "onnx": ".onnx", "python": ".py"}


def request_for(assign: Assign, folder: Path, *formats: str, **changes: Any) -> ExportRequest:
    """Train an assignment, and return the request that exports the result in these formats."""
    targets = {name: folder / f"model{SUFFIXES[name]}" for name in formats}
    return export_request(assign, run_training(assign), targets, **changes)


@pytest.fixture(scope="module")
def request_of_digits(tmp_path_factory: pytest.TempPathFactory) -> ExportRequest:
    """Return the request of a small training on the digits, which several tests share."""
    folder = tmp_path_factory.mktemp("trained")
    assign = Assign(
        candidate=7,
        attempt=1,
        code=[[1, 0, 1, 1, 0.5], *[[0, 0, 1, 0, 0.5]] * 5, [2, 1, 0, 0, 0.5]],
        macro=asdict(PRESETS["eatnas-tiny"]),
        task={"resolution": 8, "channels": 1, "classes": 10},
        data={"name": "digits", "train_images": 256, "validation_images": 100},
        training={"epochs": 1, "batch_size": 64, "learning_rate": 0.1},
        seed=3,
        checkpoint_folder=str(folder),
        log_file=str(folder / "log"),
    )
    return request_for(assign, folder)


def written(request: ExportRequest, folder: Path, *formats: str) -> tuple[dict[str, Path], ValidationImages, Network]:
    """Write files without a process that verifies them."""
    network, images, description = describe_model(request)
    paths = {name: folder / f"model{SUFFIXES[name]}" for name in formats}
    for name, path in paths.items():
        path.write_bytes(WRITERS[name](network, description))
    return paths, images, network


def digit(folder: Path, shape: tuple[int, int], mode: str = "L", kind: str = "png") -> Path:
    """Write an image of random pixels."""
    pixels = np.random.default_rng(5).integers(0, 255, (*shape, 3), np.uint8)
    path = folder / f"digit-{shape[0]}-{shape[1]}.{kind}"
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_safetensors_and_module_give_the_checkpoints_logits(request_of_digits: ExportRequest, tmp_path: Path) -> None:
    paths, images, network = written(request_of_digits, tmp_path, "safetensors", "python")
    batch = next(images.batches())
    with torch.inference_mode():
        expected = network(batch)
        for path in paths.values():
            assert (open_model_file(path).forward(batch) - expected).abs().max() < 1e-5


def test_description_survives_the_file(request_of_digits: ExportRequest, tmp_path: Path) -> None:
    paths, _, _ = written(request_of_digits, tmp_path, "safetensors")
    described = open_model_file(paths["safetensors"]).description
    assert described == describe_model(request_of_digits)[2]
    assert described.classes == tuple("0123456789")
    assert described.recipe["epochs"] == 1
    assert described.metrics == request_of_digits.model["metrics"]


@pytest.mark.parametrize("macro", PRESETS)
def test_module_is_short_and_formatted_and_imports_no_eatnas_package(
    macro: str, request_of_digits: ExportRequest
) -> None:
    description = replace(
        describe_model(request_of_digits)[2],
        macro=PRESETS[macro].to_json(),
        architecture="/".join(["mb6_k7_d4_w2.0_skip"] * 7),
        preprocessing=Preprocessing("RGB", 224, 0.875, "bilinear", "pillow", (0.485, 0.456, 0.406), (0.2, 0.2, 0.2)),
    )
    source = write_module(description)
    assert len(source.splitlines()) < 200
    assert "import eatnas" not in source
    assert "from eatnas" not in source
    for arguments in (["format", "--check", "--diff", "-"], ["check", "-"]):
        command = [sys.executable, "-m", "ruff", arguments[0], "--isolated", *arguments[1:]]
        done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_transform_gives_the_input_of_the_training(request_of_digits: ExportRequest) -> None:
    data = load_data(request_of_digits.data, "cpu")
    _, images, description = describe_model(request_of_digits)
    transform = ImageTransform(description.preprocessing)
    pixels = data.held_out.images[:20]  # type: ignore[attr-defined]
    inputs = torch.stack([transform(image) for image in pixels])
    assert torch.equal(inputs, next(images.batches())[:20])
    assert torch.equal(transform(Image.fromarray(pixels[0, 0].numpy())), inputs[0])


@pytest.mark.parametrize("size", [(64, 48), (7, 9), (1, 1), (300, 5)])
def test_streamed_preprocessing_equals_the_decoder(tmp_path: Path, size: tuple[int, int]) -> None:
    path = digit(tmp_path, size, "RGB")
    settings = Preprocessing("RGB", 24, 0.875, "bilinear", "pillow", (0.0,) * 3, (1.0,) * 3)
    decoded = decode_image(str(path), 24, None).transpose(2, 0, 1)
    assert np.array_equal(crop_and_resize(Image.open(path), settings), decoded)


def test_transform_gives_the_streamed_input_of_the_training(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(3 * 256, dtype=np.uint8).reshape(3, 16, 16).transpose(1, 2, 0))
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(4):  # all images are equal, because their order in a part is random
            image.save(tmp_path / "train" / name / f"{number}.png")
    data = {"name": "ImageNet", "root": str(tmp_path), "resolution": 16}  # a folder with this name is always streamed
    loaded = load_data(data, "cpu")
    images = load_validation(data, task=loaded.task, digest=loaded.digest, final=False)
    assert images.preprocessing.rounding == "pillow"
    assert torch.equal(ImageTransform(images.preprocessing)(image), next(images.batches())[0])


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize(("shape", "mode"), [((8, 8), "L"), ((31, 57), "RGB"), ((1, 3), "L")])
def test_every_image_gets_the_same_class_in_each_format(
    request_of_digits: ExportRequest, tmp_path: Path, shape: tuple[int, int], mode: str, kind: str
) -> None:
    paths, _, _ = written(request_of_digits, tmp_path, "safetensors", "python")
    image = str(digit(tmp_path, shape, mode, kind))
    answers = [predict(PredictionRequest(str(path), [image], 3)) for path in paths.values()]
    assert [one.label for one in answers[0]] == [one.label for one in answers[1]]
    assert [one.rank for one in answers[0]] == [1, 2, 3]


DEEP = np.linspace(0, 65535, 12 * 9).reshape(12, 9)
DEEP_IMAGES = {
    "grey.png": Image.fromarray(DEEP.astype(np.uint16)),
    "grey.tiff": Image.fromarray(DEEP.astype(np.uint16)),
    "floats.tiff": Image.fromarray((DEEP / 65535).astype(np.float32)),
}


def run_example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[2] / "examples" / name))


@pytest.mark.parametrize("rounding", ["once", "pillow"])
@pytest.mark.parametrize("name", DEEP_IMAGES)
def test_images_of_16_bits_are_scaled_as_in_training(
    request_of_digits: ExportRequest, tmp_path: Path, name: str, rounding: str
) -> None:
    description = describe_model(request_of_digits)[2]
    settings = Preprocessing("RGB", 8, 0.875, "bilinear", rounding, (0.5,) * 3, (0.25,) * 3)
    DEEP_IMAGES[name].save(tmp_path / name)
    expected = ImageTransform(settings)(Image.open(tmp_path / name)).numpy()
    assert expected.std() > 0.1
    module: dict[str, Any] = {"__file__": str(tmp_path / "m.py"), "__name__": "m"}
    exec(write_module(replace(description, preprocessing=settings)), module)
    assert module["preprocess"](Image.open(tmp_path / name)).numpy() == pytest.approx(expected, abs=1e-5)
    pytest.importorskip("onnxruntime")
    example = run_example("folder_to_onnx.py")
    assert example["preprocess"](Image.open(tmp_path / name), asdict(settings)) == pytest.approx(expected, abs=1e-5)


def test_pixels_without_a_white_are_refused(request_of_digits: ExportRequest, tmp_path: Path) -> None:
    module: dict[str, Any] = {"__file__": str(tmp_path / "m.py"), "__name__": "m"}
    exec(write_module(describe_model(request_of_digits)[2]), module)
    for pixels in (DEEP.astype(np.int32), DEEP.astype(np.float32)):
        with pytest.raises(ValueError, match="has no value for white"):
            module["preprocess"](Image.fromarray(pixels))


@pytest.mark.slow
def test_exported_module_runs_as_a_program(request_of_digits: ExportRequest, tmp_path: Path) -> None:
    paths, _, _ = written(request_of_digits, tmp_path, "safetensors", "python")
    image = str(digit(tmp_path, (31, 57), "RGB"))
    (best,) = predict(PredictionRequest(str(paths["safetensors"]), [image], 1))
    module = subprocess.run([sys.executable, paths["python"], image], capture_output=True, text=True, check=True)
    assert module.stdout == f"{image}: {best.label} ({best.probability:.4f})\n"


def test_model_loads_with_its_preprocessing_and_classes(request_of_digits: ExportRequest, tmp_path: Path) -> None:
    paths, _, network = written(request_of_digits, tmp_path, "safetensors")
    model = eatnas_db.load_model(paths["safetensors"])
    assert not model.training
    assert model.classes == tuple("0123456789")
    inputs = model.preprocess(Image.open(digit(tmp_path, (20, 30))))[None]
    assert torch.equal(model(inputs), network(inputs))
    assert list(model.state_dict()) == list(network.state_dict())


def test_features_are_the_maps_of_each_resolution(request_of_digits: ExportRequest, tmp_path: Path) -> None:
    paths, images, network = written(request_of_digits, tmp_path, "safetensors")
    batch = next(images.batches())[:2]
    features = eatnas_db.load_model(paths["safetensors"], features_only=True)
    maps = features(batch)
    assert [list(one.shape[2:]) for one in maps] == [[8, 8], [4, 4], [2, 2]]
    assert [one.shape[1] for one in maps] == features.feature_info.channels()
    assert features.feature_info.reduction() == [1, 2, 4]
    # The last map is the input of the network's head.
    assert torch.equal(network.features[-3:](maps[-1]), network.features(batch))


@pytest.mark.parametrize("name", [*PRESETS])
def test_feature_info_describes_each_preset(request_of_digits: ExportRequest, tmp_path: Path, name: str) -> None:
    macro, task = PRESETS[name], Task(32, 3, 5)
    network = random_network(name, task, 4)
    description = replace(
        describe_model(request_of_digits)[2],
        macro=macro.to_json(),
        task=asdict(task),
        architecture=network[1],
    )
    path = tmp_path / "model.safetensors"
    path.write_bytes(WRITERS["safetensors"](network[0], description))
    features = eatnas_db.load_model(path, features_only=True)
    maps = features(torch.zeros(1, 3, 32, 32))
    assert [32 // one.shape[2] for one in maps] == features.feature_info.reduction()
    assert [one.shape[1] for one in maps] == features.feature_info.channels()


def random_network(macro: str, task: Task, seed: int) -> tuple[Network, str]:
    """Return a network with random weights, and its architecture."""
    from eatnas_training.network import build, initialize

    sampled = Space(PRESETS[macro], task).sample(KeyedRng(seed, "test"), lambda _: False)
    network = build(sampled.architecture, PRESETS[macro], task)
    initialize(network, seed)
    return network.eval(), str(sampled.architecture)


DAMAGES = [
    ("preprocessing", "mode", "CMYK", "preprocessing.mode is 'CMYK', expected L or RGB"),
    ("preprocessing", "deviation", [0.0], "preprocessing.deviation is .*, expected finite numbers, all above 0"),
    ("preprocessing", "mean", [0.5] * 3, "expected 1 numbers in preprocessing.mean, got 3"),
    ("preprocessing", "crop", "\x1b[31m", r"preprocessing.crop is '\\x1b\[31m'"),
    ("preprocessing", "resolution", 16, "expected 8 pixels in preprocessing.resolution, got 16"),
    ("preprocessing", "rounding", None, "preprocessing.rounding is None"),
    ("classes", None, ["0"], "expected 10 names of classes, got 1"),
    ("mult_adds", None, "many", "mult_adds is 'many'"),
    ("task", "channels", True, "task.channels is True"),
    ("macro", "strides", None, "cannot be read as a model"),
    ("macro", "stem_stride", -1, "cannot be read as a model"),
]


@pytest.mark.parametrize(("field", "key", "value", "message"), DAMAGES)
def test_damaged_description_names_its_field(
    request_of_digits: ExportRequest, tmp_path: Path, field: str, key: str | None, value: object, message: str
) -> None:
    paths, _, _ = written(request_of_digits, tmp_path, "safetensors")
    with safe_open(paths["safetensors"], "pt") as file:
        stored = file.metadata()
    stored[field] = json.dumps(value if key is None else {**json.loads(stored[field]), key: value})
    save_file(load_file(paths["safetensors"]), paths["safetensors"], stored)
    with pytest.raises(DataError, match=message) as raised:
        predict(PredictionRequest(str(paths["safetensors"]), [str(digit(tmp_path, (9, 9)))], 3))
    assert str(paths["safetensors"]) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_logits_are_refused_with_the_largest_difference(request_of_digits: ExportRequest, tmp_path: Path) -> None:
    paths, images, network = written(request_of_digits, tmp_path, "safetensors")
    with torch.no_grad():
        reference = torch.cat([network(batch) for batch in images.batches()])
    assert verify_file(paths["safetensors"], images, reference).difference < 1e-5
    reference[3, 4] += 0.25
    with pytest.raises(DataError, match=r"model\.safetensors was not written.*by up to 0\.25"):
        verify_file(paths["safetensors"], images, reference)
    reference[3, 4] = float("nan")
    with pytest.raises(DataError, match="was not written"):
        verify_file(paths["safetensors"], images, reference)


def test_accuracy_other_than_the_recorded_one_is_refused() -> None:
    logits = torch.eye(10) * 5
    labels = torch.arange(10)
    require_recorded_accuracy(logits, labels, recorded=1.0, precision="float32", candidate=1)
    with pytest.raises(DataError, match=r"candidate 1 has the accuracy 1\.0000 .*the record has 0\.9000"):
        require_recorded_accuracy(logits, labels, recorded=0.9, precision="float32", candidate=1)
    logits[0, 1] = logits[0, 0]  # a tie may count as correct or as wrong
    require_recorded_accuracy(logits, labels, recorded=0.9, precision="float32", candidate=1)


def break_weights(network: Network, description: ModelDescription) -> bytes:
    with torch.no_grad():
        network.classifier.bias[0] += 0.5
    content = WRITERS["safetensors"](network, description)
    with torch.no_grad():
        network.classifier.bias[0] -= 0.5
    return content


@pytest.mark.slow
def test_file_that_fails_is_removed_with_all_others(request_of_digits: ExportRequest, tmp_path: Path) -> None:
    targets = {name: str(tmp_path / f"model{SUFFIXES[name]}") for name in ("safetensors", "python")}
    request = replace(request_of_digits, targets=targets)
    with pytest.raises(DataError, match=r"by up to 0\.5 \(allowed: 0\.0001\)"):
        export_model(request, {**WRITERS, "safetensors": break_weights})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"garbled", "does not match its SHA-256"), (None, "cannot be read: No such file"), (b"", "SHA-256")],
)
def test_garbled_checkpoint_is_named(
    request_of_digits: ExportRequest, tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "c7-a1-e1-b0.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words) as refused:
        describe_model(replace(request_of_digits, checkpoint=str(path)))
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_checkpoint_of_another_candidate_is_refused(request_of_digits: ExportRequest, tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    other = write_checkpoint(path, b"something else")
    with pytest.raises(DataError, match="does not have the recorded digest"):
        describe_model(replace(request_of_digits, checkpoint=str(path)))
    model = {**request_of_digits.model, "checkpoint_digest": other.digest}
    with pytest.raises(DataError, match="not a checkpoint"):
        describe_model(replace(request_of_digits, checkpoint=str(path), model=model))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.safetensors", b"garbled", "not a complete safetensors file"),
        ("m.pt2", b"garbled", "cannot be read as a model"),
        ("m.h5", b"", "unknown suffix"),
    ],
)
def test_file_that_is_no_model_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as refused:
        open_model_file(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_safetensors_of_another_program_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(DataError, match="has no description"):
        open_model_file(tmp_path / "m.safetensors")


def test_data_that_changed_are_refused(request_of_digits: ExportRequest) -> None:
    with pytest.raises(DataError, match="has changed since the search was created"):
        describe_model(replace(request_of_digits, data={**request_of_digits.data, "split_seed": 9}))


def trained_folder(assignment: MakeAssignment, folder: Path) -> Assign:
    """Return an assignment on a folder of coloured images with class names in several scripts."""
    draw = np.random.default_rng(1)
    for number, name in enumerate(("ёлка", "猫", "a b'c\"d")):
        (folder / name).mkdir(parents=True)
        for index in range(10):
            pixels = draw.integers(0, 80, (19 + index, 27 - index, 3), np.uint8)
            pixels[..., number] += 120
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return replace(
        assignment(data={"name": "ImageFolder", "root": str(folder), "resolution": 9}, epochs=3, batch_size=8),
        task={"resolution": 9, "channels": 3, "classes": 3},
    )


def test_class_folders_of_any_script_name_the_classes(assignment: MakeAssignment, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    request = request_for(trained_folder(assignment, folder), tmp_path)
    paths, _, _ = written(request, tmp_path, "safetensors", "python")
    classes = open_model_file(paths["safetensors"]).description.classes
    assert classes == tuple(sorted(("ёлка", "猫", "a b'c\"d")))
    image = folder / "猫" / "3.png"
    transform = eatnas_db.load_model(paths["safetensors"]).preprocess
    inputs = transform(Image.open(image))
    assert any(torch.equal(inputs, one) for batch in all_images(request) for one in batch)
    answers = [predict(PredictionRequest(str(path), [str(image)], 3)) for path in paths.values()]
    assert {one.label for one in answers[0]} == set(classes)
    assert answers[0][0].label == answers[1][0].label


def all_images(request: ExportRequest) -> list[Tensor]:
    data = load_data(request.data, "cpu")
    return [part.between(0, len(part.labels))[0] for part in (data.train, data.held_out)]


def test_final_model_is_normalized_as_in_its_training(assignment: MakeAssignment, tmp_path: Path) -> None:
    assign = replace(assignment(epochs=1), final_model=True)
    reports = run_training(assign)
    searched = load_data(assign.data, "cpu")
    request = export_request(assign, reports, {}, data_digest=searched.digest)
    _, images, _ = describe_model(request)
    final = load_data(assign.data, "cpu", final_model=True)
    count = len(images.labels)
    assert torch.equal(next(images.batches()), final.train.between(len(final.train.labels) - count, 10**6)[0])


@pytest.mark.parametrize(
    "macro",
    [pytest.param(name, marks=pytest.mark.slow if name == "eatnas-tiny" else pytest.mark.soak) for name in PRESETS],
)
def test_random_codes_are_verified_in_all_formats(
    assignment: MakeAssignment, tmp_path: Path, macro: str, request: pytest.FixtureRequest
) -> None:
    side = 32 if macro == "eatnas-imagenet" else 9
    sampled = Space(PRESETS[macro], Task(side, 1, 10)).sample(KeyedRng(11, macro), lambda _: False)
    assign = replace(
        assignment(
            code=sampled.architecture.to_code(),
            data={"name": "digits", "resolution": side, "train_images": 64, "validation_images": 40},
            epochs=1,
            batch_size=32,
        ),
        macro=PRESETS[macro].to_json(),
        task={"resolution": side, "channels": 1, "classes": 10},
    )
    exported = request_for(assign, tmp_path, "safetensors", "pt2", "onnx", "python")
    files = export_model(exported)
    assert [Path(file.file).suffix for file in files] == [".safetensors", ".pt2", ".onnx", ".py"]
    batch = torch.randn(3, 1, side, side)
    networks: list[Callable[[Tensor], Tensor]] = [open_model_file(Path(file.file)).forward for file in files]
    with torch.inference_mode():
        for count in (1, 3):  # the batch size is dynamic
            logits = [network(batch[:count]) for network in networks]
            # Scale the tolerance, because networks that were not really trained have logits of any size.
            scale = max(1.0, float(logits[0].abs().max()))
            assert max(float((one - logits[0]).abs().max()) for one in logits) < 1e-4 * scale
    assert (eatnas_db.load_model(tmp_path / "model.pt2")(batch) - logits[0]).abs().max() < 1e-4 * scale
    with pytest.raises(DataError, match="cannot be trained"):
        eatnas_db.load_model(tmp_path / "model.pt2").train()
