from __future__ import annotations

import os
from pathlib import Path

import PIL.Image
import pytest

from eatnas_db.errors import DataError
from eatnas_training.data.folder_report import list_notes
from eatnas_training.data.folder_walk import Skipped
from eatnas_training.data.image_folder import ImageFolder, list_test_folder, list_training_folder


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 8), (len(name), 2, 3)).save(root / name, "PNG")
    return root


def listed(root: Path, name: str = "ImageFolder") -> ImageFolder:
    return list_training_folder(root, name)


def reasons(folder: ImageFolder) -> dict[str, str]:
    return {skipped.path: skipped.reason for skipped in folder.skipped}


def test_links_to_folders_below_a_class_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "2.png", "deep/3.png")
    root = write(tmp_path / "data", "cat/1.png", "dog/1.png")
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "linked").symlink_to(write(tmp_path / "third", "4.png"))
    folder = listed(root)
    assert folder.names == [
        "cat/1.png", "cat/more/2.png", "cat/more/deep/3.png", "cat/more/deep/linked/4.png", "dog/1.png",
    ]  # fmt: skip
    assert folder.labels.tolist() == [0, 0, 0, 0, 1]


def test_class_that_is_a_link_is_listed(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "cat/1.png")
    (root / "dog").symlink_to(write(tmp_path / "elsewhere", "2.png"))
    assert listed(root).names == ["cat/1.png", "dog/2.png"]


@pytest.mark.parametrize("target", [".", "..", "../..", "a", "a/b", "/"])
def test_links_in_cycles_are_named_and_not_followed(tmp_path: Path, target: str) -> None:
    root = write(tmp_path / "data", "train/cat/1.png", "train/cat/a/b/2.png", "train/dog/3.png", "val/cat/9.png")
    (root / "train" / "cat" / "loop").symlink_to(target)
    folder = listed(root)
    assert folder.names == ["cat/1.png", "cat/a/b/2.png", "dog/3.png"]
    assert reasons(folder) == {"cat/loop": "a link to a folder that is already listed"}


def test_listing_of_folders_that_link_each_other_ends(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "cat/1.png", "dog/1.png")
    one, two = write(tmp_path / "one", "5.png"), write(tmp_path / "two", "6.png")
    (one / "two").symlink_to(two)
    (two / "one").symlink_to(one)
    (root / "cat" / "one").symlink_to(one)
    (root / "dog" / "loop").symlink_to(root)
    folder = listed(root)
    assert folder.names == ["cat/1.png", "cat/one/5.png", "cat/one/two/6.png", "dog/1.png"]
    assert set(reasons(folder)) == {"cat/one/two/one", "dog/loop"}


def test_broken_links_are_listed_and_pipes_are_skipped(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "cat/1.png", "dog/1.png")
    (root / "cat" / "broken.png").symlink_to("nowhere")
    (root / "cat" / "itself.png").symlink_to("itself.png")
    os.mkfifo(root / "dog" / "pipe.png")
    folder = listed(root)
    assert folder.names == ["cat/1.png", "cat/broken.png", "cat/itself.png", "dog/1.png"]
    assert reasons(folder) == {"dog/pipe.png": "not a file"}


def test_everything_that_is_skipped_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/dog/deep/.2.png", "test/cat/1.png")
    for name in (
        "train/cat/.a",
        "train/cat/.b",
        "train/cat/Thumbs.db",
        "train/notes.txt",
        "train/__MACOSX/cat/._1.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("no image")
    for name in ("train/bird", "train/.cache", "train/fish/deep"):
        (root / name).mkdir(parents=True)
    folder = listed(root)
    assert folder.class_names == ("cat", "dog")
    assert folder.names == ["cat/1.png", "dog/1.png"]
    assert folder.count_images() == {"cat": 1, "dog": 1}
    system = "written by an operating system, not an image"
    empty = "holds no files, so it is not a class"
    assert folder.skipped == (
        Skipped("../test", "not used; the parts are train and val"),
        Skipped(".cache", "hidden"),
        Skipped("__MACOSX", system),
        Skipped("notes.txt", "not in the folder of a class"),
        Skipped("bird", empty),
        Skipped("cat", "hidden", 2),
        Skipped("cat", system),
        Skipped("dog/deep", "hidden"),
        Skipped("fish", empty),
    )


@pytest.mark.parametrize(
    ("found", "right"),
    [("Train", "train"), ("TRAIN", "train"), ("training", "train"), ("Val", "val"), ("test", "val"), ("Valid", "val")],
)
def test_part_with_another_name_is_refused(tmp_path: Path, found: str, right: str) -> None:
    root = write(tmp_path, f"{found}/cat/1.png", f"{found}/dog/1.png", "other/cat/1.png")
    for name in ("ImageFolder", "ImageNet"):
        with pytest.raises(DataError, match=rf"has a folder '{found}', .*; rename the folder to '{right}'$"):
            listed(root, name)


def test_misspelled_test_part_is_refused_when_it_is_needed(tmp_path: Path) -> None:
    root = write(tmp_path, "train/cat/1.png", "train/dog/1.png", "Val/cat/1.png", "Val/dog/1.png")
    assert reasons(listed(root)) == {"../Val": "not used; the parts are train and val"}
    with pytest.raises(DataError, match="rename the folder to 'val'"):
        list_test_folder(root, "ImageFolder", listed(root))


def test_class_that_is_called_like_a_part_is_a_class(tmp_path: Path) -> None:
    assert listed(write(tmp_path, "Train/1.png", "Car/1.png", "Test/1.png")).class_names == ("Car", "Test", "Train")


@pytest.mark.parametrize("name", ["ImageFolder", "ImageNet"])
def test_folder_with_one_class_is_refused(tmp_path: Path, name: str) -> None:
    root = write(tmp_path, "train/cat/1.png", "train/cat/2.png")
    with pytest.raises(DataError, match=r"only one class with files, 'cat', and a search needs two; put the images"):
        listed(root, name)
    (root / "train" / "dog").mkdir()
    with pytest.raises(DataError, match=r"only one class with files, 'cat', .*; the folder 'dog' holds no files; "):
        listed(root, name)


def test_classes_one_folder_too_deep_are_refused_with_the_remedy(tmp_path: Path) -> None:
    root = write(tmp_path, "photos/cat/1.png", "photos/dog/1.png")
    with pytest.raises(DataError, match=r"if 'cat' and 'dog' are classes, set data\.root .* to .*/photos$"):
        listed(root)


def test_test_images_have_the_labels_of_the_training_part(tmp_path: Path) -> None:
    root = write(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/elk/1.png", "val/cat/1.png", "val/elk/1.png")
    with pytest.raises(DataError, match="only one of them has 'dog'"):
        list_test_folder(root, "ImageFolder", listed(root))
    for name in ("dog", "bird"):
        (root / "val" / name).mkdir()
    test = list_test_folder(root, "ImageFolder", listed(root))
    assert (test.names, test.labels.tolist()) == (["cat/1.png", "elk/1.png"], [0, 2])
    write(root, "val/bird/1.png")
    with pytest.raises(DataError, match="only one of them has 'bird'"):
        list_test_folder(root, "ImageFolder", listed(root))


def test_notes_list_skipped_folders_and_images(tmp_path: Path) -> None:
    root = write(tmp_path, "train/cat/1.png", "train/dog/1.png", "Val/cat/1.png", "train/cat/.hidden.png")
    for name in ("a", "b", "c", "d"):
        (root / "train" / name).mkdir()
    data = {"name": "ImageNet", "root": str(root)}
    empty = "is skipped: holds no files, so it is not a class"
    assert list_notes(data, ["cat/1.png"]) == [
        f"{root}/Val is skipped: not used; the parts are train and val",
        f"{root}/train/a {empty}",
        f"{root}/train/b {empty}",
        "more files are skipped: 2; `eatnas-db data prepare ImageNet` lists all of them",
        "unreadable images are skipped: 1 (the first is cat/1.png)",
    ]
