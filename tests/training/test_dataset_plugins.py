"""Data sets of other packages are read item by item, are checked, and have the same bits in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import DataError
from eatnas_db.plugins import SOURCE_DIGESTS
from eatnas_db.testing import check_dataset
from eatnas_training import prepare
from eatnas_training.data import datasets, loading
from eatnas_training.data.class_names import list_class_names
from eatnas_training.worker_protocol import StopRequest
from support.dataset_plugins import SQUARES, install_dataset
from support.trainings import MakeAssignment, after_calls, assert_same_bits, failed, finished, run_training

HEAD = "import numpy, random, torch\nfrom eatnas_db.datasets import ImageDataset\n"
Load = Callable[..., datasets.TrainingData]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder of installed packages on `sys.path`."""
    site = tmp_path / "site"
    site.mkdir()
    sys.path.insert(0, str(site))
    yield site
    sys.path.remove(str(site))
    SOURCE_DIGESTS.clear()
    for name in [name for name in sys.modules if name.startswith("data_sample")]:
        del sys.modules[name]


@pytest.fixture
def load(site: Path, tmp_path: Path) -> Load:
    """Return a function that loads a data set of 20 items of two classes. Its argument is the Python expression for an
    item.
    """
    numbers = iter(range(1000))

    def load(
        item: str = "(image, index % 2)",
        *,
        returns: str = "ImageDataset(Items(), 2, 1, 8)",
        more: str = "",
        **keys: Any,
    ) -> datasets.TrainingData:
        package = f"data_sample_{next(numbers)}"
        source = f"""{HEAD}{more}
class Items:
    length = 20
    def __len__(self):
        return self.length
    def __getitem__(self, index):
        image = numpy.full((8, 8), index, numpy.uint8)
        return {item}

def load(root, part, **options):
    return {returns}
"""
        install_dataset(site, package, source)
        return datasets.load_training({"name": package, "root": str(tmp_path), **keys})

    return load


@pytest.fixture
def squares(site: Path, tmp_path: Path) -> dict[str, Any]:
    install_dataset(site, "data_sample_squares")
    return {"name": "data_sample_squares", "root": str(tmp_path)}


def test_items_are_read_split_and_digested(squares: dict[str, Any]) -> None:
    data = datasets.load_training(squares)
    assert data.train.images.shape == (48, 1, 8, 8)
    assert len(data.validation.labels) == 12
    assert datasets.load_training(squares).digest == data.digest
    assert datasets.load_training({**squares, "split_seed": 1}).digest != data.digest
    assert list_class_names(squares) == ("left", "middle", "right")
    assert len(datasets.load_final(squares).test.labels) == 9


def test_description_has_the_identity_of_the_source(squares: dict[str, Any]) -> None:
    described = prepare.describe(squares)
    assert (described["resolution"], described["channels"], described["classes"]) == (8, 1, 3)
    assert described["plugin"]["reference"] == "data_sample_squares:load"
    assert described["plugin"]["version"] == "1.0"
    assert prepare.download(squares)["test_images"] == 9
    assert "data_sample_squares" in {row["name"] for row in prepare.list_data_sets()}


def test_options_and_references_reach_the_function(squares: dict[str, Any]) -> None:
    data = datasets.load_training({**squares, "name": "data_sample_squares:load", "options": {"count": 30}})
    assert len(data.train.labels) == 24
    with pytest.raises(DataError, match="unexpected keyword argument 'size'"):
        datasets.load_training({**squares, "options": {"size": 3}})


def test_training_resumes_with_the_same_bits(assignment: MakeAssignment, squares: dict[str, Any]) -> None:
    task = {"resolution": 8, "channels": 1, "classes": 3}
    whole, stopped = (replace(assignment(data=squares, epochs=1, batch_size=12), task=task) for _ in range(2))
    run_training(stopped, after_calls(3, StopRequest.RELEASE))
    loading.forget_loaded_data(squares)
    assert_same_bits(run_training(whole), run_training(replace(stopped, attempt=2)))


def test_changed_items_fail_the_training_with_both_digests(
    assignment: MakeAssignment, squares: dict[str, Any], site: Path
) -> None:
    task = {"resolution": 8, "channels": 1, "classes": 3}
    described = prepare.describe(squares)
    state = {key: described.get(key) for key in ("data_digest", "files_digest", "content_digest", "plugin")}
    assign = replace(assignment(data=squares, epochs=1), task=task, data_state=state)
    finished(run_training(assign))
    install_dataset(site, "data_sample_squares", SQUARES.replace("+= 150", "+= 151"))
    del sys.modules["data_sample_squares"]
    SOURCE_DIGESTS.clear()
    loading.forget_loaded_data(squares)
    report = failed(run_training(replace(assign, attempt=2)))
    assert report.kind == FailureKind.UNREADABLE_DATA
    assert described["data_digest"] in report.message
    assert "the source of data_sample_squares:load has changed too" in report.message


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("1 / 0", r"item 0 .*ZeroDivisionError: division by zero"),
        ("exit('stop')", "item 0 .*SystemExit: stop"),
        ("(image[:7], 0)", r"item 0 .*it has 7 × 8 pixels instead of 8 × 8"),
        ("(numpy.zeros((8, 8, 3), numpy.uint8), 0)", r"its shape is \[8, 8, 3\].*channels first"),
        ("(image * float('nan'), 0)", r"infinite or NaN values"),
        ("(image / 5.0, index % 2)", r"item 6 .*floats from 1.2 to 1.2; they must lie between 0 and 1"),
        ("(image.astype(int), 0)", "its values are int64"),
        ("(image, 2)", "its label is 2; return a label from 0 to 1"),
        ("(image, -1)", "its label is -1"),
        ("(image, 2**70)", "its label is a number of 71 bits; return a label from 0 to 1"),
        ("(image, None)", "it has no label"),
        ("(image, 0.5)", "its label is float"),
        ("(image, True)", "its label is bool"),
        ("image", "it is ndarray, not a pair of an image and its label"),
        ("('image.png', 0)", "its image is str; return a Pillow image"),
        ("(image, 0)", "only one class with images, 0, and a search needs two"),
        ("(image, index % 2 + 0 * random.getrandbits(1))", "global generator of random,"),
        ("(image, index % 2 + 0 * numpy.random.randint(2))", r"global generator of numpy\.random,"),
        ("(image, index % 2 + 0 * int(torch.rand(1)))", "global generator of torch,"),
        ("(image + numpy.random.default_rng().integers(0, 200, (8, 8)).astype(numpy.uint8), index % 2)", "two reads"),
        ("(setattr(Items, 'length', 19), (image, index % 2))[1]", "length .* changed from 20 to 19"),
    ],
)
def test_misbehaviour_of_items_is_explained(load: Load, item: str, message: str) -> None:
    state = random_state()
    with pytest.raises(DataError, match=message) as raised:
        load(item)
    assert "\n" not in str(raised.value)
    assert random_state() == state


def random_state() -> tuple[Any, ...]:
    import random

    import torch

    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        ("1 / 0", "cannot be opened in .*ZeroDivisionError"),
        ("open(root / 'away.bin')", "cannot be opened in .*No such file or directory"),
        ("None", "returned NoneType for its train part"),
        ("Items()", "must return an eatnas_db.datasets.ImageDataset"),
        ("ImageDataset((image for image in []), 2)", "not a map-style data set: generator"),
        ("ImageDataset([], 2)", "has no items"),
        ("ImageDataset(Items(), 2, 4)", "has 4 channels; only 1"),
        ("ImageDataset(Items(), 2, 3, 8)", r"its shape is \[1, 8, 8\]; return \[3, height"),
        ("ImageDataset(Items(), 2, 1, 9)", "8 × 8 pixels instead of 9 × 9"),
        ("random.random() and ImageDataset(Items(), 2)", "draws from the global generator of random"),
        ("exit(3)", "cannot be opened in .*SystemExit: 3"),
        (
            "setattr(Items, 'length', 2**25) or ImageDataset(Items(), 2)",
            r"need 2048 MiB .*limit: 1024 MiB\); .*store the images as files and use ImageFolder or csv:PATH",
        ),
    ],
)
def test_misbehaviour_of_the_function_is_explained(load: Load, returns: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(returns=returns)


def test_packages_that_cannot_be_imported_are_named(load: Load) -> None:
    with pytest.raises(DataError, match=r"cannot be loaded \(ZeroDivisionError"):
        load(more="1 / 0\n")
    with pytest.raises(DataError, match="ends the process when it is imported"):
        load(more="exit(3)\n")


def test_unusable_items_are_skipped_on_demand(load: Load, tmp_path: Path) -> None:
    broken = "(image, index % 2 if index != 5 else None)"
    data = load(broken, on_unreadable="skip")
    assert len(data.train.labels) + len(data.validation.labels) == 19
    assert data.train.skipped == ("item 5",)
    assert data.digest != load().digest


def test_items_of_any_size_need_a_resolution(load: Load) -> None:
    sizes = "(numpy.full((8 + index, 9 + index), index, numpy.uint8), index % 2)"
    any_size = "ImageDataset(Items(), 2)"
    with pytest.raises(DataError, match=r"8 × 9 pixels instead of 8 × 8; set data\.resolution"):
        load(sizes, returns=any_size)
    assert load(sizes, returns=any_size, resolution=6).train.images.shape == (16, 1, 6, 6)


def test_floats_pillow_images_and_mappings_are_images_too(load: Load) -> None:
    more = "import PIL.Image\n"
    plain = load()
    for item in (
        "(image / 255, numpy.int64(index % 2))",
        "(torch.from_numpy(image)[None], torch.tensor(index % 2))",
        "{'image': PIL.Image.fromarray(image), 'label': index % 2}",
    ):
        assert load(item, more=more).digest == plain.digest


def test_number_of_classes_may_be_a_numpy_integer(load: Load) -> None:
    assert load(returns="ImageDataset(Items(), numpy.int64(2), 1, 8)").train.classes == 2


def test_declared_digest_is_part_of_the_digest(load: Load) -> None:
    first, second = (load(returns=f"ImageDataset(Items(), 2, 1, 8, digest='{version}')") for version in "ab")
    assert first.digest != second.digest
    assert np.array_equal(first.train.images, second.train.images)


def test_missing_test_part_is_refused_only_when_it_is_needed(load: Load, tmp_path: Path) -> None:
    load(returns="ImageDataset(Items(), 2, 1, 8) if part == 'train' else None")
    with pytest.raises(DataError, match="has no test part"):
        datasets.load_final({"name": "data_sample_0", "root": str(tmp_path)})
    assert prepare.download({"name": "data_sample_0", "root": str(tmp_path)})["test_images"] == 0


@pytest.mark.parametrize(
    ("test_part", "message"),
    [
        (
            "[(numpy.stack([image] * 3), 0) for image, _ in map(Items().__getitem__, range(20))], ('a', 'b'), 3, 8",
            "images of 3 × 8 × 8 .*, but the training part has images of 1 × 8 × 8",
        ),
        (
            "[(image[:6, :6], 0) for image, _ in map(Items().__getitem__, range(20))], ('a', 'b'), 1, 6",
            "images of 1 × 6 × 6",
        ),
        ("Items(), ('b', 'a'), 1, 8", "the class 'b' for the label 0, but the training part has the class 'a'"),
        (
            "[(image, 2) for image, _ in map(Items().__getitem__, range(20))], 3, 1, 8",
            "the label 2, but the training part has only 2 classes",
        ),
    ],
)
def test_test_part_of_another_kind_is_reported_in_one_line(
    load: Load, tmp_path: Path, test_part: str, message: str
) -> None:
    load(returns=f"ImageDataset(Items(), ('a', 'b'), 1, 8) if part == 'train' else ImageDataset({test_part})")
    with pytest.raises(DataError, match=message) as raised:
        datasets.load_final({"name": "data_sample_0", "root": str(tmp_path)})
    assert "\n" not in str(raised.value)


def test_error_for_an_unknown_name_lists_the_known_forms(squares: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"did you mean data_sample_squares\?.*torchvision:CLASS, hf:PATH, csv:PATH"):
        datasets.load_training({**squares, "name": "data_sample_square"})
    with pytest.raises(DataError, match="the package no_such_package is not installed"):
        datasets.load_training({**squares, "name": "no_such_package:load"})


@pytest.mark.slow
def test_program_ends_when_a_data_set_hangs(site: Path, tmp_path: Path) -> None:
    hanging = SQUARES.replace("label = index % 3", "label = index % 3; print('reads', index); index == 5 and hang()")
    install_dataset(site, "data_sample_hangs", f"import threading\n{hanging}\n\ndef hang(): threading.Event().wait()\n")
    command = [sys.executable, "-m", "eatnas_training.prepare", "describe", "--silence-seconds", "0.5"]
    done = subprocess.run(
        command,
        input=json.dumps({"name": "data_sample_hangs", "root": str(tmp_path)}),
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "data_sample_hangs hangs: opening it or reading one item takes more than 0.5 s"
    )


@pytest.mark.slow
def test_check_reads_a_data_set_in_two_processes(squares: dict[str, Any], site: Path, tmp_path: Path) -> None:
    checked = check_dataset(**squares)
    assert (checked["classes"], checked["train_images"], checked["test_images"]) == (3, 48, 9)
    unordered = SQUARES.replace("label = index % 3", "label = hash(str(index)) % 3")
    install_dataset(site, "data_sample_unordered", unordered)
    with pytest.raises(AssertionError, match="two processes got different images of data_sample_unordered"):
        check_dataset("data_sample_unordered", tmp_path, test_part=False)
    with pytest.raises(AssertionError, match="unknown data set 'data_sample_none'"):
        check_dataset("data_sample_none", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("2, digest=7", r"has the digest 7 \(int\); its ImageDataset must have a string, or None"),
        ("2, digest=b'a'", "has the digest b'a'"),
        ("10**9 + 1", r"has the classes 1000000001 \(int\); .* or their number from 1 to 1,000,000"),
        ("0", "has the classes 0"),
        ("-3", "has the classes -3"),
        ("True", "has the classes True"),
        ("2.0", "has the classes 2.0"),
        ("'ab'", r"has the classes 'ab' \(str\)"),
        ("()", "has the classes"),
        ("2, resolution='8'", "has the resolution '8'"),
        ("2, resolution=0", "has the resolution 0"),
        ("2, channels=2", "2 channels; only 1"),
    ],
)
def test_wrong_description_is_reported_in_one_line(load: Load, arguments: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        load(returns=f"ImageDataset(Items(), {arguments})")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("label", ["2**70", "10**9", "-(2**70)"])
def test_label_beyond_all_classes_is_reported_in_one_line(load: Load, label: str) -> None:
    with pytest.raises(DataError, match=r"item 0 .* return a label from 0 to 999999"):
        load(f"(image, {label})", returns="ImageDataset(Items(), None)")
