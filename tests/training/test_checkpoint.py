from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eatnas_db.checkpoint_files import CheckpointName, read_checkpoint, write_checkpoint
from eatnas_training import checkpoint
from support.trainings import MakeAssignment


def test_checkpoint_round_trips_through_its_file(tmp_path: Path) -> None:
    content = checkpoint.pack({"weights": torch.arange(5.0), "epoch": 3})
    written = write_checkpoint(tmp_path / "new" / str(CheckpointName(4, 2, 1, 9)), content)
    assert written.path.name == "c4-a2-e1-b9.ckpt"
    assert written.bytes == written.path.stat().st_size == len(content) + 32
    state = checkpoint.unpack(read_checkpoint(written.path))
    assert torch.equal(state["weights"], torch.arange(5.0))
    assert [path.name for path in written.path.parent.iterdir()] == [written.path.name]


def test_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_checkpoint(tmp_path / "a.ckpt", b"old").path

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(path, b"new")
    assert read_checkpoint(path) == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_invalid_content_raises_value_error(content: bytes | None) -> None:
    whole = checkpoint.pack({"weights": torch.zeros(1000)})
    with pytest.raises(ValueError, match="not a checkpoint"):
        checkpoint.unpack(whole[: len(whole) // 2] if content is None else content)


def test_flipped_bit_is_found_by_the_digest(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.ckpt", b"content").path
    path.write_bytes(b"C" + path.read_bytes()[1:])
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize(("begins_after", "used"), [(0, [0, 1, 2]), (1, [2])])
def test_checkpoints_are_used_unless_training_begins_after_them(
    assignment: MakeAssignment, begins_after: int, used: list[int]
) -> None:
    # The workers of several children write the checkpoints of a retrained parent as attempt 0.
    assign = replace(assignment(4, attempt=0), begins_after=begins_after)
    for attempt in range(3):
        checkpoint.save(replace(assign, attempt=attempt), epoch=attempt, batch=0, content=bytes([attempt]))
    offered: list[int] = []

    def refuse(content: bytes) -> None:
        offered.insert(0, content[0])
        raise ValueError("refused")

    checkpoint.resume(assign, refuse)
    assert offered == used
    assert len(list(Path(assign.checkpoint_folder).iterdir())) == len(used)
