"""The one training loop: a generator of reports, with the same bits however often interrupted."""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.spec import TrainingSpec
from eatnas_db.errors import DataError
from eatnas_protocol.messages import (
    Assign,
    EpochDone,
    Failed,
    Finished,
    Phase,
    Progress,
    Released,
    Restored,
    Up,
)
from eatnas_training import checkpoint, network, parent_weights, streaming
from eatnas_training.augment import BatchKey, Data
from eatnas_training.failures import DivergedError, is_of_cuda, is_out_of_memory, kind_of
from eatnas_training.parent_weights import Ancestor
from eatnas_training.schedule import learning_rate
from eatnas_training.worker_protocol import StopRequest

PROGRESS_SECONDS: Final = 0.5
VALIDATION_BATCHES: Final = 4
"""Batches of validation hold so many times the images of training's: no gradients take room there."""

# Without it cuBLAS is not deterministic, and torch refuses to compute. It is read when the first matrix is multiplied.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

Clock = Callable[[], float]


@dataclass(slots=True)
class TrainingState:
    """A training between two batches: all that a checkpoint holds. `sums`: loss, correct, images."""

    model: nn.Module
    optimizer: torch.optim.SGD
    sums: Tensor
    precision: str
    epoch: int = 0
    batch: int = 0
    epoch_seconds: float = 0.0
    rows: list[EpochDone] = field(default_factory=list)
    share_inherited: float | None = None
    logit_distance: float | None = None


def train(
    assign: Assign,
    wanted: Callable[[], StopRequest],
    *,
    device: str = "cpu",
    monotonic: Clock = time.monotonic,
    wall_clock: Clock = time.time,
) -> Iterator[Up]:
    """Train one candidate; `wanted` is asked between batches. Ends in Finished, Released or Failed."""
    training = Training(assign, device, monotonic, wall_clock)
    try:
        yield from training.run(wanted)
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        yield Failed(
            *(assign.candidate, assign.attempt, kind_of(error), str(error) or type(error).__name__, text),
            *(training.device_seconds, is_of_cuda(error)),
        )


class Training:
    """One assignment: its recipe, its data, its state, and the seconds it spent in steps."""

    def __init__(
        self,
        assign: Assign,
        device: str = "cpu",
        monotonic: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        ancestor: Ancestor | None = None,
    ) -> None:
        self.assign, self.device, self.ancestor = assign, device, ancestor
        self.monotonic, self.wall_clock = monotonic, wall_clock
        self.recipe = TrainingSpec(**assign.training)
        self.device_seconds = 0.0
        self.token = (assign.candidate, assign.attempt)
        self.data: Data
        self.precision: str
        self.state: TrainingState
        self.batches = 0
        self._progress_at = -math.inf
        self._saved_at = monotonic()

    def run(self, wanted: Callable[[], StopRequest]) -> Iterator[Up]:
        """The whole training. Raises whatever goes wrong; `train` turns it into `Failed`."""
        yield Phase(*self.token, "loading")
        self.load()
        yield Phase(*self.token, "building")
        self.build()
        resumed = yield from self.resume()
        if self.assign.inherits and not resumed and not (yield from self.inherit(wanted)):
            return
        yield from self.state.rows
        self._saved_at = self.monotonic()
        while self.state.epoch < self.recipe.epochs:
            yield Phase(*self.token, "training")
            while self.state.batch < self.batches:
                if (wish := wanted()) >= StopRequest.RELEASE:
                    yield from self._stopped(wish, wanted)
                    return
                if wish is StopRequest.CHECKPOINT or self._checkpoint_due():
                    yield from self.save(wanted)
                self.step()
                yield from self._progress()
            self._require_finite()
            validation = None
            if not self.assign.final:
                yield Phase(*self.token, "validating")
                validation = yield from self._measure(wanted)
                if validation is None:
                    return
            yield self._close_epoch(validation)
        yield from self.save(wanted)
        last = self.state.rows[-1]
        loss, accuracy = last.val_loss, last.val_accuracy
        if self.assign.final:
            # The one look at the test part. Whoever is stopped or killed in it looks again, with the same weights.
            yield Phase(*self.token, "testing")
            tested = yield from self._measure(wanted)
            if tested is None:
                return
            loss, accuracy = tested
        assert loss is not None
        assert accuracy is not None
        yield Finished(
            *(*self.token, accuracy, loss),
            *(self.data.digest, self.device_seconds),
            *(self.state.share_inherited, self.state.logit_distance),
            precision=self.state.precision,
        )

    def load(self) -> None:
        """Have the images ready for the device, and check that they are what the task says."""
        self.data = streaming.load(self.assign.data, self.device, final=self.assign.final)
        found, expected = self.data.task, Task(**self.assign.task)
        if found != expected:
            raise DataError(
                f"the data are {found}, the search was created for {expected}; bring its files back, "
                "or create a new search"
            )
        self.batches = max(1, len(self.data.train.labels) // self.recipe.batch_size)

    def build(self, ancestor: Ancestor | None = None) -> None:
        """The network and its optimizer at the start: the same bits, whatever this process did before."""
        torch.set_num_threads(self.recipe.threads)
        settle_arithmetic()
        architecture = Architecture.from_code(self.assign.code)
        macro = Macro.from_json(self.assign.macro)
        model = network.build(architecture, macro, Task(**self.assign.task))
        network.initialize(model, self.assign.seed)
        share = distance = None
        if ancestor is not None:
            inheritance, distance = parent_weights.take_over(ancestor, model, self.assign, self.data)
            share = inheritance.share
        model.to(device=self.device)
        # `Module.to` has no overload for a memory format alone in torch's stubs.
        cast("Any", model).to(memory_format=torch.channels_last)
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        optimizer = optimizer_of(model, self.recipe)
        self.precision = precision_on(self.device, self.recipe.precision)
        self.state = TrainingState(
            model, optimizer, sums, self.precision, share_inherited=share, logit_distance=distance
        )

    def resume(self) -> Generator[Up, None, bool]:
        """Go on from the newest whole checkpoint, if there is one."""
        resumed = checkpoint.resume(self.assign, lambda content: self._restore(checkpoint.unpack(content)))
        if resumed is None:
            return False
        if resumed.path is None:  # what was tried may have left its marks on the network
            self.build()
        yield resumed
        return resumed.path is not None

    def inherit(self, wanted: Callable[[], StopRequest]) -> Generator[Up, None, bool]:
        """Start from the parent's weights; where these are gone, train it again first. False when stopped."""
        ancestor, missing = (self.ancestor, []) if self.ancestor else parent_weights.nearest(self.assign)
        for link in missing:
            again = Training(link, self.device, self.monotonic, self.wall_clock, ancestor)
            yield Phase(*self.token, "restoring")
            for report in again.run(wanted):
                if isinstance(report, Progress):
                    yield replace(report, candidate=self.assign.candidate, attempt=self.assign.attempt)
                elif isinstance(report, Released):
                    yield Released(*self.token, self.device_seconds + again.device_seconds)
                    return False
            self.device_seconds += again.device_seconds
            yield Restored(*self.token, link.candidate)
            ancestor = Ancestor(parent_weights.plan_of(link), again.state.model.cpu().state_dict())
        assert ancestor is not None
        self.build(ancestor)
        return True

    def step(self) -> None:
        """One batch forward and backward; its seconds count as the device's.

        Nothing here waits for a device that is not the processor: it is given its work, and looked at by `_progress`.
        """
        started = self.monotonic()
        self._descend()  # in a call of its own: to free what it held takes time, too
        self.state.batch += 1
        self._spent(started)
        if self.device == "cpu":  # elsewhere looking at the loss would wait for the device
            self._require_finite()

    def _descend(self) -> None:
        state, recipe = self.state, self.recipe
        at = state.epoch * self.batches + state.batch
        rate = self._rate(at)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        key = BatchKey(recipe.augment, self.assign.seed, recipe.batch_size, state.epoch, state.batch)
        images, labels = self.data.train.batch(key)
        state.optimizer.zero_grad(set_to_none=True)
        for part, its_labels in self._parts(images, labels):
            with self._autocast():
                logits = state.model(part)
                loss = cross_entropy(logits, its_labels, label_smoothing=recipe.label_smoothing)
            share = len(its_labels) / len(labels)
            (loss if share == 1 else loss * share).backward()  # type: ignore[no-untyped-call]
            _add(state.sums, loss.detach() * len(its_labels), logits.detach(), its_labels)
        state.optimizer.step()

    def _parts(self, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """A batch as it is, or in two halves whose gradients are added up: each has its own batch-norm statistics."""
        pieces = 2 if self.assign.halved and len(labels) >= 4 else 1  # one image alone has no variance
        return zip(images.tensor_split(pieces), labels.tensor_split(pieces), strict=True)

    def validate_batch(self, start: int, sums: Tensor) -> int:
        """Add the figures of held-out images from `start` on to `sums`; where the next batch starts."""
        began = self.monotonic()
        batches = 1 if self.assign.halved else VALIDATION_BATCHES  # memory is short where batches are halved
        stop = min(start + batches * self.recipe.batch_size, len(self.data.held_out.labels))
        self._judge(start, stop, sums)
        self._spent(began)
        return stop

    def _judge(self, start: int, stop: int, sums: Tensor) -> None:
        self.state.model.eval()
        with torch.inference_mode(), self._autocast():
            images, labels = self.data.held_out.between(start, stop)
            logits = self.state.model(images)
            _add(sums, cross_entropy(logits, labels, reduction="sum"), logits, labels)
        self.state.model.train()

    def save(self, wanted: Callable[[], StopRequest]) -> Iterator[Up]:
        """Write a checkpoint of the state between two batches; on a full disk, wait for room or for a stop."""
        yield Phase(*self.token, "saving")
        self._require_finite()  # where a device has yet to do its steps this waits for them, and they are its seconds
        state = self.state
        content = checkpoint.pack(
            {
                "identity": self._identity(),
                "model": state.model.state_dict(),
                "optimizer": state.optimizer.state_dict(),
                "sums": state.sums,
                "precision": state.precision,
                "epoch": state.epoch,
                "batch": state.batch,
                "epoch_seconds": state.epoch_seconds,
                "rows": [asdict(row) for row in state.rows],
                "share_inherited": state.share_inherited,
                "logit_distance": state.logit_distance,
            }
        )
        yield from checkpoint.save_patiently(self.assign, state.epoch, state.batch, content, wanted)
        self._saved_at = self.monotonic()

    def _restore(self, kept: dict[str, Any]) -> None:
        if kept["identity"] != self._identity():
            raise ValueError("it is of another network, recipe or seed")
        state = self.state
        try:
            state.model.load_state_dict(kept["model"])
            state.optimizer.load_state_dict(kept["optimizer"])
            state.sums.copy_(kept["sums"])
        except RuntimeError as error:
            if is_out_of_memory(error) or is_of_cuda(error):  # which says nothing about the file
                raise
            raise ValueError(str(error)) from error
        # Weights are float32 either way: what another kind of device has done is not thrown away, but it is told.
        state.precision = self.precision if kept["precision"] == self.precision else "mixed"
        state.epoch, state.batch = kept["epoch"], kept["batch"]
        state.epoch_seconds = kept["epoch_seconds"]
        state.share_inherited, state.logit_distance = kept["share_inherited"], kept["logit_distance"]
        rows = [EpochDone(**row) for row in kept["rows"]]
        state.rows = [replace(row, attempt=self.assign.attempt) for row in rows]

    def _identity(self) -> str:
        """What must be equal for a checkpoint to fit: all that decides bits."""
        # As JSON, in which a tuple is what it is after a journey through a pipe: a list.
        decides = {
            "code": self.assign.code,
            "macro": self.assign.macro,
            "task": self.assign.task,
            "recipe": self.recipe.without_timing(),
            "seed": self.assign.seed,
            "data_digest": self.data.digest,
            "parent": [self.assign.heritage[-1][key] for key in ("candidate", "code", "training", "seed")]
            if self.assign.heritage
            else self.assign.inherits,
        }
        return json.dumps(decides, sort_keys=True)

    def _measure(self, wanted: Callable[[], StopRequest]) -> Generator[Up, None, tuple[float, float] | None]:
        """Loss and accuracy on the held-out images; None when stopped."""
        count = len(self.data.held_out.labels)
        sums = torch.zeros_like(self.state.sums)
        start = 0
        while start < count:
            if (wish := wanted()) >= StopRequest.RELEASE:
                yield from self._stopped(wish, wanted)
                return None
            if wish is StopRequest.CHECKPOINT:
                yield from self.save(wanted)
            start = self.validate_batch(start, sums)
            yield from self._progress()
        loss, correct, _ = self._looked_at(sums)
        _require_finite(loss, self.state.epoch)
        return loss / count, correct / count

    def _close_epoch(self, validation: tuple[float, float] | None) -> EpochDone:
        state = self.state
        val_loss, val_accuracy = validation or (None, None)
        loss, correct, images = state.sums.tolist()
        row = EpochDone(
            *(*self.token, state.epoch, loss / images, correct / images, val_loss, val_accuracy),
            learning_rate=self._rate((state.epoch + 1) * self.batches - 1),
            seconds=state.epoch_seconds,
            ended_at=self.wall_clock(),
        )
        state.rows.append(row)
        state.epoch, state.batch, state.epoch_seconds = state.epoch + 1, 0, 0.0
        state.sums.zero_()
        return row

    def _stopped(self, wish: StopRequest, wanted: Callable[[], StopRequest]) -> Iterator[Up]:
        if wish is StopRequest.RELEASE:
            yield from self.save(wanted)
        else:
            self._looked_at(self.state.sums)
        yield Released(*self.token, self.device_seconds)

    def _progress(self) -> Iterator[Up]:
        now = self.monotonic()
        if now - self._progress_at < PROGRESS_SECONDS:
            return
        self._progress_at = now
        self._require_finite()
        at = (self.state.epoch, self.state.batch, self.batches)
        held = 0 if self.device == "cpu" else torch.cuda.memory_reserved(self.device)
        yield Progress(*(*self.token, *at, self.device_seconds, held))

    def _checkpoint_due(self) -> bool:
        return self.monotonic() - self._saved_at >= self.recipe.checkpoint_seconds

    def _rate(self, step: int) -> float:
        recipe = self.recipe
        total = recipe.epochs * self.batches
        return learning_rate(step, total, recipe.learning_rate, recipe.warmup)

    def _spent(self, started: float) -> None:
        seconds = self.monotonic() - started
        self.device_seconds += seconds
        self.state.epoch_seconds += seconds

    def _autocast(self) -> AbstractContextManager[Any]:
        """The network's arithmetic in the recipe's precision; weights, loss and sums stay float32 or better."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)

    def _looked_at(self, sums: Tensor) -> list[float]:
        """The sums; waits for the device to have done its steps, which are its seconds as well."""
        started = self.monotonic()
        found: list[float] = sums.tolist()
        if self.device != "cpu":
            self._spent(started)
        return found

    def _require_finite(self) -> None:
        _require_finite(self._looked_at(self.state.sums)[0], self.state.epoch)


def settle_arithmetic() -> None:
    """Have torch compute the same bits each time, in the precision that the recipe names."""
    torch.use_deterministic_algorithms(True)
    # On top of that torch would fill all fresh memory with NaN: a tenth of a step, for code that reads it unset.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # TF32 would be a third precision, and one that no recipe names. For products of matrices an environment may ask.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def precision_on(device: str, asked: str) -> str:
    """What a recipe's precision comes to on a device: bfloat16 is float32 on a CUDA device that only emulates it."""
    if asked == "float32" or torch.device(device).type != "cuda":
        # On processors bfloat16 was slower for all but the largest networks.
        return "float32" if asked == "auto" else asked
    with torch.cuda.device(device):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def _require_finite(loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise DivergedError(f"the loss is {loss} in epoch {epoch}")


def _add(sums: Tensor, loss_sum: Tensor, logits: Tensor, labels: Tensor) -> None:
    sums[0] += loss_sum
    sums[1] += (logits.argmax(1) == labels).sum()
    sums[2] += len(labels)


def optimizer_of(model: nn.Module, recipe: TrainingSpec) -> torch.optim.SGD:
    """SGD with Nesterov's momentum; weight decay on convolutions' and the classifier's weights alone."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    return torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True,
    )
