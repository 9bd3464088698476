"""Compare the estimated memory of random networks with the peak of their training.

    python benchmarks/memory.py                        # tensors of torch on the CPU
    python benchmarks/memory.py --device cuda:0        # torch's allocator on a GPU, with the workspaces of cuDNN

On the CPU, the peak is the largest total size of tensors that exist at the same time. Workspaces inside an operation
are left out, because the workspaces of oneDNN and cuDNN differ. The program prints a table and exits with status 1 if
an estimate is wrong by more than a factor of two.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.memory_estimate import variable_bytes
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Proposal, Space
from eatnas_protocol.messages import Assign
from eatnas_training.numerics import resolve_precision
from eatnas_training.steps import StepRunner

SETTINGS = (("eatnas-tiny", 8, 64), ("eatnas-small", 28, 64), ("eatnas-small", 32, 16))
"""The space, resolution and batch size of each setting."""
FACTOR = 2.0
COLUMNS = ("network", "precision", "parameters", "mult-adds", "estimate, MB", "peak, MB", "ratio")


class TensorPeak(TorchDispatchMode):
    """Tracks the memory of all tensors that operations return; `bytes` is the peak."""

    def __init__(self) -> None:
        super().__init__()
        self._living: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._now = self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        for result in tree_iter(results):
            if isinstance(result, torch.Tensor):
                self._add(result.untyped_storage())
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._living:
            return

        def remove(_: object) -> None:
            if self._living.pop(key, None) is not None:
                self._now -= size

        self._living[key] = weakref.ref(storage, remove)
        self._now += size
        self.bytes = max(self.bytes, self._now)


@dataclass(frozen=True)
class Measured:
    """The estimate for a network and its measured peak, both in bytes."""

    name: str
    proposal: Proposal
    precision: str
    estimate: int
    peak: int

    @property
    def ratio(self) -> float:
        return self.estimate / self.peak


def measure_peak(train: Callable[[], None], device: str) -> int:
    """Return the largest number of bytes in tensors while `train` runs, without the bytes that existed before."""
    if device == "cpu":
        with TensorPeak() as peak:
            train()
        return peak.bytes
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    train()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device)) - before


def measure(networks: int, device: str, precision: str) -> Iterator[Measured]:
    """Train random networks for two steps and a validation batch, and yield their estimates and peaks."""
    for number in range(networks):
        name, side, batch_size = SETTINGS[number % len(SETTINGS)]
        task = Task(side, 1, 10)
        proposal = Space(PRESETS[name], task, Limits()).sample(KeyedRng(number, "sample", 0), lambda digest: False)
        assign = Assign(
            candidate=1,
            attempt=1,
            code=proposal.architecture.to_code(),
            macro=asdict(PRESETS[name]),
            task=asdict(task),
            data={"name": "digits", "train_images": 512, "validation_images": 512, "resolution": side},
            training={"epochs": 1, "batch_size": batch_size, "augment": "shift", "precision": precision},
            seed=number,
            checkpoint_folder="",
            log_file="",
        )
        runner = StepRunner(assign, device)
        runner.load()

        def train(runner: StepRunner = runner) -> None:
            runner.build()
            for _ in range(2):
                runner.train_step()
            runner.validate_step(0, torch.zeros_like(runner.state.sums))

        actual = resolve_precision(device, precision)
        estimate = variable_bytes(proposal.cost.params, proposal.activations, batch_size, actual)
        setting = f"{name}, {side} pixels, batch {batch_size}"
        yield Measured(setting, proposal, actual, estimate, measure_peak(train, device))


def main() -> int:
    """Print a table of estimates and peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=21, metavar="N")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("auto", "float32", "bfloat16"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    ratios = []
    for found in measure(options.networks, options.device, options.precision):
        cost = found.proposal.cost
        network = f"{found.name} | {found.precision} | {cost.params:,} | {cost.mult_adds:,}"
        memory = f"{found.estimate / 1e6:.1f} | {found.peak / 1e6:.1f} | {found.ratio:.2f}"
        print(f"| {network} | {memory} |", flush=True)
        ratios.append(found.ratio)
    print(f"\nThe estimate is {min(ratios):.2f} to {max(ratios):.2f} times the peak.")
    return 0 if all(1 / FACTOR <= ratio <= FACTOR for ratio in ratios) else 1


if __name__ == "__main__":
    sys.exit(main())
