from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path

import pytest
import torch

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
    """Return a function that makes small assignments on the digits. By default, each assignment has a new checkpoint
    folder.
    """
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
            candidate=candidate,
            attempt=attempt,
            code=code,
            macro=asdict(PRESETS["eatnas-tiny"]),
            task={"resolution": 8, "channels": 1, "classes": 10},
            data=data or {"name": "digits", "train_images": 256, "validation_images": 100},
            training={"epochs": 2, "batch_size": 64, "learning_rate": 0.1, **training},
            seed=seed,
            checkpoint_folder=checkpoint_folder or str(next(folders)),
            log_file=str(tmp_path / "logs" / f"{candidate}.log"),
        )

    return make


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread, so that sums have a fixed order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
