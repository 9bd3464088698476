"""A worker that speaks the whole protocol and looks scores up: `python worker.py TABLE --in-fd N --out-fd N`.

From epoch `--epochs` on, a training has one of the network's scores in the table, which the seed of the training
selects. Earlier epochs have the score of a short training, if the table has one. A final model has the true score.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eatnas_db.domain.arithmetic import recorded_settings
from eatnas_protocol.messages import Assign, EpochDone, Failed, Finished, Phase, Ready, Released, Report
from eatnas_training.worker_protocol import StopRequest, WorkerProtocol, handle_signals
from tables.spaces import code_of, space_of
from tables.tables import Table

TABLE_WORKER: Final = (__file__,)
"""The arguments of a Python interpreter that start this worker; the path of a table follows."""
PERCENT: Final = 100.0


def table_digest(file: Path) -> str:
    """Return the digest by which a record identifies the data of a table."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def column_of(table: Table, training_seed: int) -> int:
    """Return the column of the table's scores from which a training gets its score."""
    return training_seed % table.scores.shape[1]


class TableTrainer:
    """Answers the requests to train with scores from a table."""

    def __init__(self, file: Path, epochs: int) -> None:
        self._epochs = epochs
        self._table = Table.load(file)
        self._space = space_of(self._table)
        self._digest = table_digest(file)

    def train(self, assign: Assign, wanted: Callable[[], StopRequest]) -> Iterator[Report]:
        """Yield the reports of one training."""
        token = (assign.candidate, assign.attempt)
        if wanted() >= StopRequest.RELEASE:
            yield Released(*token, device_seconds=0.0)
            return
        row = self._table.row_of.get(code_of(self._space.from_code(assign.code)))
        if row is None:
            message = f"the table {self._table.name} does not hold {assign.code}"
            yield Failed(*token, kind="exception", message=message, traceback="", device_seconds=0.0)
            return
        yield Phase(*token, "training")
        scores = self._scores(assign, row)
        for epoch, accuracy in enumerate(scores):
            yield _epoch(assign, epoch, accuracy)
        accuracy = float(self._table.true[row]) / PERCENT if assign.final_model else scores[-1]
        yield Finished(*token, accuracy=accuracy, loss=1 - accuracy, data_digest=self._digest, device_seconds=0.0)

    def _scores(self, assign: Assign, row: int) -> list[float]:
        """Return the score of each epoch up to the rung or the end of the recipe."""
        end = assign.stop_after or int(assign.training["epochs"])
        whole = float(self._table.scores[row, column_of(self._table, assign.seed)])
        short = whole if self._table.short is None else float(self._table.short[row])
        return [(whole if epoch >= self._epochs else short) / PERCENT for epoch in range(1, end + 1)]


def _epoch(assign: Assign, epoch: int, accuracy: float) -> EpochDone:
    measured = None if assign.final_model else accuracy
    return EpochDone(
        candidate=assign.candidate,
        attempt=assign.attempt,
        epoch=epoch,
        train_loss=1 - accuracy,
        train_accuracy=accuracy,
        val_loss=None if measured is None else 1 - measured,
        val_accuracy=measured,
        learning_rate=float(assign.training["learning_rate"]),
        seconds=0.0,
        ended_at=time.time(),
    )


def main() -> None:
    """Train the assigned candidates until the supervisor sends `Exit` or closes its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="file of the table (*.npz)")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of a whole training")
    parser.add_argument("--in-fd", type=int, required=True)
    parser.add_argument("--out-fd", type=int, required=True)
    parser.add_argument("--device", default="cpu", help="device to report in Ready; nothing runs on it")
    options = parser.parse_args()
    protocol = WorkerProtocol(options.in_fd, options.out_fd)
    handle_signals(protocol)
    trainer = TableTrainer(options.table, options.epochs)
    ready = Ready(
        pid=os.getpid(),
        versions={"python": platform.python_version()},
        device=options.device,
        cpu_capability="table",
        settings=recorded_settings(os.environ),
        gpu_uuid=os.environ.get("CUDA_VISIBLE_DEVICES") or None,
    )
    protocol.run(ready, trainer.train)


if __name__ == "__main__":
    main()
