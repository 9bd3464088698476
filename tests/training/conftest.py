from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path

import pytest

from eatnas_db.domain.macro import PRESETS
from eatnas_protocol.messages import Assign

CODE: list[list[int | float]] = [
    [1, 0, 1, 0, 0.5],
    [0, 1, 1, 1, 1.0],
    [1, 0, 1, 0, 0.5],
    [0, 0, 0, 0, 1.0],
    [1, 0, 0, 0, 0.5],
    [0, 2, 1, 1, 0.5],
    [2, 0, 1, 0, 0.5],
]


@pytest.fixture
def assignment(tmp_path: Path) -> Callable[..., Assign]:
    """Makes small assignments on the digits, each with a checkpoint folder of its own unless it is given one."""
    folders = (tmp_path / f"checkpoints-{number}" for number in count())

    def make(
        candidate: int = 1,
        attempt: int = 1,
        *,
        code: list[list[int | float]] = CODE,
        checkpoint_folder: str | None = None,
        data: dict[str, object] | None = None,
        seed: int = 7,
        **training: object,
    ) -> Assign:
        return Assign(
            candidate,
            attempt,
            code,
            asdict(PRESETS["eatnas-tiny"]),
            {"resolution": 8, "channels": 1, "classes": 10},
            data or {"name": "digits", "train_images": 256, "validation_images": 100},
            {"epochs": 2, "batch_size": 64, "learning_rate": 0.1, **training},
            seed,
            checkpoint_folder or str(next(folders)),
            str(tmp_path / "logs" / f"{candidate}.log"),
        )

    return make
