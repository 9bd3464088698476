"""`python -m eatnas_training.prepare list|describe|final|download|verify`: list, describe, download and verify data
sets.

All commands except `list` read a `DataSpec` as JSON from stdin. Every command prints JSON. After an error, it prints
one line to stderr and exits with status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from eatnas_db.domain.data_state import DataState
from eatnas_db.errors import DataError, EatnasError, describe_os_error
from eatnas_db.text_encoding import escape_controls
from eatnas_training.answers import take_stdout
from eatnas_training.data import datasets
from eatnas_training.data.arrays import SKIP
from eatnas_training.data.catalog import describe_plugin, get_data_set, is_map_style, list_known
from eatnas_training.data.download import DOWNLOADS, Source, download_missing
from eatnas_training.data.file_sets import data_root, is_file_set
from eatnas_training.data.folder_content import LoadProgress, Reporter, ignore_progress, run_to_end
from eatnas_training.data.folder_report import list_notes, read_image_folder
from eatnas_training.data.streamed_files import listing_steps
from eatnas_training.silence import SilenceTimer

NOT_DESCRIBED: Final[dict[str, Any]] = {
    "resolution": None,
    "channels": 3,
    "train_images": None,
    "validation_images": None,
    "data_digest": None,
    "files_digest": None,
    "content_digest": None,
    "notes": [],
}
"""The fields of a description that cannot be complete, because the resolution is unknown or files are unreadable."""


def list_data_sets() -> list[dict[str, Any]]:
    """Return a row for each data set: its name and the fields of `DataSetInfo`."""
    return [{"name": name, **asdict(info)} for name, info in list_known().items()]


def describe(data: Mapping[str, Any], report: Reporter = ignore_progress) -> dict[str, Any]:
    """Return the shape of the images, the size of each part, the digests, and notes. Raises `DataError`."""
    files = run_to_end(listing_steps(data), report)
    if files is not None:
        train, validation, state = files.train.labels, files.held_out.labels, files.state
        channels, side, classes, skipped = 3, files.side, files.classes, files.skipped
    else:
        loaded = run_to_end(datasets.training_steps(data), report)
        train, validation, state = (
            loaded.train.labels,
            loaded.validation.labels,
            DataState(loaded.digest, plugin=describe_plugin(str(data["name"]))),
        )
        _, channels, side, _ = loaded.train.images.shape
        classes, skipped = loaded.train.classes, loaded.train.skipped
    return {
        "resolution": side,
        "channels": channels,
        "classes": classes,
        "train_images": len(train),
        "validation_images": len(validation),
        "test_images": get_data_set(data["name"]).test_images,
        **state.to_json(),
        "notes": _list_notes(data, skipped),
    }


def _list_notes(data: Mapping[str, Any], skipped: Sequence[str]) -> list[str]:
    if is_file_set(str(data["name"])):
        return list_notes(data, skipped)
    return [f"items that cannot be used are skipped: {len(skipped)} (the first is {skipped[0]})"] if skipped else []


def describe_final(data: Mapping[str, Any], report: Reporter = ignore_progress) -> dict[str, Any]:
    """Return the numbers of images on which final models are trained and tested.

    Raises `DataError`, for example if there is no test part.
    """
    files = run_to_end(listing_steps(data, final_model=True), report)
    if files is not None:
        return {"train_images": len(files.train.labels), "test_images": len(files.held_out.labels)}
    loaded = run_to_end(datasets.final_steps(data), report)
    return {"train_images": len(loaded.train.labels), "test_images": len(loaded.test.labels)}


def download(
    data: Mapping[str, Any], sources: Mapping[str, Source] = DOWNLOADS, report: Reporter = ignore_progress
) -> dict[str, Any]:
    """Download missing or damaged files, read both parts, and describe the data set. Raises `DataError`.

    Every file of an image folder is read. If some files are unreadable, the answer names them and has no digest, unless
    the spec skips them.
    """
    name = str(data["name"])
    if is_map_style(name):
        return _prepare_map_style(data, report)
    if get_data_set(name).needs_download:
        root = data_root(data)
        try:
            download_missing(root, name, sources[name])
        except OSError as error:
            raise DataError(f"{name}: {error.filename or root} cannot be written: {error.strerror}") from error
        datasets.load_test(data)
    if not is_file_set(name):
        return describe(data, report)
    folder = read_image_folder(data, report)
    complete = not folder.unreadable or data.get("on_unreadable") == SKIP
    if complete and (data.get("resolution") or get_data_set(name).side):
        described = describe(data, report)
    else:
        described = {**NOT_DESCRIBED, "classes": len(folder.images_by_class)}
    described["test_images"] = sum(row["test_images"] or 0 for row in folder.images_by_class)
    return {**described, "folder": asdict(folder)}


def _prepare_map_style(data: Mapping[str, Any], report: Reporter) -> dict[str, Any]:
    """Let torchvision download missing files, read both parts, and describe the data set."""
    from eatnas_training.data.map_style import open_map_style  # `map_style` imports torch

    open_map_style(data, train=True, download=True)
    described = describe(data, report)
    if open_map_style(data, train=False, download=True) is not None:
        described["test_images"] = len(run_to_end(datasets.testing_steps(data), report).labels)
    return described


def verify(data: Mapping[str, Any], report: Reporter = ignore_progress) -> dict[str, Any]:
    """Read all files again, even if they are in the cache, and describe the data set. Raises `DataError`."""
    if is_file_set(str(data["name"])):
        read_image_folder(data, report, test=False)
    return describe(data, report)


COMMANDS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "describe": describe,
    "final": describe_final,
    "download": download,
    "verify": verify,
}


def terminal_reporter(fd: int) -> Reporter:
    """Return a function that writes the progress over the last line of a terminal."""

    def report(progress: LoadProgress) -> None:
        end = "\n" if progress.done == progress.total else ""
        with contextlib.suppress(OSError):
            os.write(fd, f"\r{progress.describe()}\033[K{end}".encode())

    return report


def _run_command(command: str, data: Mapping[str, Any], report: Reporter, silence_seconds: float) -> dict[str, Any]:
    name = str(data["name"])
    if command == "download" or not is_map_style(name):
        return COMMANDS[command](data, report=report)
    seconds = f"{silence_seconds:g} s"
    timer = SilenceTimer(silence_seconds, f"{name} hangs: opening it or reading one item takes more than {seconds}")

    def restart(progress: LoadProgress) -> None:
        timer.restart()
        report(progress)

    answer = COMMANDS[command](data, report=restart)
    timer.stop()
    return answer


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(prog="eatnas_training.prepare", description=__doc__)
    parser.add_argument("command", choices=["list", *COMMANDS])
    parser.add_argument("--progress-fd", type=int, help="file descriptor of the terminal that shows the progress")
    parser.add_argument(
        "--silence-seconds",
        type=float,
        default=600.0,
        help="time limit for one item of a data set, in seconds; default: %(default)s",
    )
    options = parser.parse_args()
    command, write_answer = options.command, take_stdout()
    report = ignore_progress if options.progress_fd is None else terminal_reporter(options.progress_fd)
    try:
        if command == "list":
            answer: Any = list_data_sets()
        else:
            answer = _run_command(command, json.load(sys.stdin), report, options.silence_seconds)
    except EatnasError as error:
        sys.exit(escape_controls(str(error)))
    except OSError as error:
        sys.exit(escape_controls(describe_os_error(error)))
    except (ValueError, KeyError) as error:
        sys.exit(repr(error))
    write_answer(answer)


if __name__ == "__main__":
    main()
