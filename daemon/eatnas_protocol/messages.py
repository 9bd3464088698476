"""What a supervisor and a worker say to each other: frozen dataclasses, as length-prefixed JSON.

They travel on file descriptors of their own; stdout and stderr stay free for the candidate's log.
Every message about a training carries the fencing token (candidate, attempt).
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from typing import Any, Final

MAXIMUM_BYTES: Final = 64 * 1024 * 1024
_PREFIX: Final = struct.Struct("!I")


# Down: from the supervisor to a worker.


@dataclass(frozen=True, slots=True)
class Assign:
    """Train this candidate, going on from the newest whole checkpoint of its own in `checkpoint_folder`.

    `inherits`: it starts from the weights of the last of `heritage`, each an assignment of its own. Where that
    one's file cannot be used, it is trained again from the one before it; a heritage that begins with an
    assignment which itself inherits is not whole. `halved`: each batch in two halves, since memory was out.
    `final`: it trains on the training and the validation images, and is measured once, after its last epoch, on the
    test part; nobody else reads that.
    """

    candidate: int
    attempt: int
    code: list[list[int | float]]
    macro: dict[str, Any]
    task: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
    seed: int
    checkpoint_folder: str
    log_file: str
    inherits: bool = False
    halved: bool = False
    heritage: list[dict[str, Any]] = field(default_factory=list)
    final: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Write a checkpoint now, and go on."""

    candidate: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Release:
    """Write a checkpoint, then stop training and say `Released`."""

    candidate: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop training; nothing is kept. The answer is `Released`."""

    candidate: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Exit:
    """Finish what is in hand as `Release` does, then leave."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The supervisor lives. A worker that hears nothing for `lease_seconds` checkpoints and exits."""

    lease_seconds: float


# Up: from a worker to its supervisor.


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker is ready for its first assignment.

    On a GPU: the UUID that torch says it is on, and a block of memory that it holds until it is assigned something,
    so that the driver can be asked where it is.
    """

    pid: int
    versions: dict[str, str]
    device: str
    cpu_capability: str
    uuid: str | None = None
    block_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A worker cannot train on its device, and why; it says this instead of `Ready`, and leaves."""

    reason: str


@dataclass(frozen=True, slots=True)
class Phase:
    """What a training does now.

    `loading`, `building`, `training`, `validating`, `testing`, `saving`, `restoring`, or `disk full`.
    """

    candidate: int
    attempt: int
    phase: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is: epoch (from 0), batches done in it and in a whole one, seconds in steps.

    `memory_bytes`: what the worker holds of a GPU's memory now.
    """

    candidate: int
    attempt: int
    epoch: int
    batch: int
    batches: int
    device_seconds: float
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EpochDone:
    """One epoch's figures; a final model has none of validation. `ended_at` is the worker's wall clock, seconds
    since 1970.
    """

    candidate: int
    attempt: int
    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float
    seconds: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A file is whole on disk: it continues at (epoch, batch). `path` is its name in the checkpoint folder,
    `digest` its content's SHA-256.
    """

    candidate: int
    attempt: int
    path: str
    digest: str
    bytes: int
    epoch: int
    batch: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where a training that found checkpoints of its own begins: `path` None means afresh.

    `damaged` are files that could not be used, and why.
    """

    candidate: int
    attempt: int
    path: str | None
    digest: str
    bytes: int
    epoch: int
    batch: int
    damaged: dict[str, str]


@dataclass(frozen=True, slots=True)
class Restored:
    """An `ancestor` whose weights were gone or damaged has been trained again, so that its heir can start."""

    candidate: int
    attempt: int
    ancestor: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Training ended: accuracy and loss after the last epoch, and seconds in steps since the assignment.

    They are of the validation images, or where the assignment says `final` of the test part.

    `precision`: what the recipe's came to, `float32` or `bfloat16`; `mixed` where a device of the other kind began.
    `peak_bytes`: the most it held of a GPU's memory, beyond a context; `images_bytes` of it were the data set's.
    `share_inherited`: of the parameters, from the parent; `logit_distance`: of the child's logits at birth from
    its parent's on validation images, in standard deviations of the parent's. None where nothing was inherited,
    or where the classes differ.
    """

    candidate: int
    attempt: int
    accuracy: float
    loss: float
    data_digest: str
    device_seconds: float
    share_inherited: float | None = None
    logit_distance: float | None = None
    precision: str = "float32"
    peak_bytes: int | None = None
    images_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Released:
    """Training stopped as asked; the last `Checkpointed`, if any, is where it goes on."""

    candidate: int
    attempt: int
    device_seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Training ended by its own doing; `kind` is a `states.FailureKind`. `fatal`: the worker exits."""

    candidate: int
    attempt: int
    kind: str
    message: str
    traceback: str
    device_seconds: float
    fatal: bool = False


Down = Assign | Checkpoint | Release | Cancel | Exit | Heartbeat
Up = (
    Ready
    | Unavailable
    | Phase
    | Progress
    | EpochDone
    | Checkpointed
    | Resumed
    | Restored
    | Finished
    | Released
    | Failed
)
Message = Down | Up

_KINDS: Final[dict[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        *(Assign, Checkpoint, Release, Cancel, Exit, Heartbeat),
        *(Ready, Unavailable, Phase, Progress, EpochDone, Checkpointed, Resumed, Restored, Finished, Released, Failed),
    )
}


def encode(message: Message) -> bytes:
    """A message as it goes over the pipe: four bytes of length, then JSON, `[name, fields]`."""
    body = json.dumps([type(message).__name__, asdict(message)]).encode()
    return _PREFIX.pack(len(body)) + body


class Decoder:
    """Turns whatever pieces a pipe delivers into whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> list[Message]:
        """The messages that this piece completes. Raises `ValueError` on anything that is not ours."""
        self._buffer += piece
        messages: list[Message] = []
        while len(self._buffer) >= _PREFIX.size:
            (length,) = _PREFIX.unpack_from(self._buffer)
            if length > MAXIMUM_BYTES:
                raise ValueError(f"a message of {length} bytes is none of ours")
            end = _PREFIX.size + length
            if len(self._buffer) < end:
                break
            messages.append(_decode(bytes(self._buffer[_PREFIX.size : end])))
            del self._buffer[:end]
        return messages


def _decode(body: bytes) -> Message:
    try:
        name, fields = json.loads(body)
        message: Message = _KINDS[name](**fields)
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"unknown message {body[:80]!r}") from error
    return message
