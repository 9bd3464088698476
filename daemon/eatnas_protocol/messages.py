"""The messages between the supervisor and a worker process, as frozen dataclasses.

Every message about a training carries the training's fencing token (candidate, attempt).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

DISK_FULL: Final = "disk full"
"""The phase in which a worker waits for disk space to write a checkpoint."""

# Commands: from the supervisor to a worker.


@dataclass(frozen=True, slots=True)
class Assign:
    """Train this candidate, and resume from its newest valid checkpoint in `checkpoint_folder`.

    - `code` is the architecture in the notation of its search space, and `macro` defines this space.
    - If `inherits` is true, start from the weights of the parent, which is the last of `ancestors`. `ancestors` lists
      the fields of an `Assign` for each ancestor, oldest first. If an ancestor's checkpoint cannot be used, the worker
      trains this ancestor again from the weights of the ancestor before it. The list is incomplete if `inherits` is
      true in its first entry.
    - If `split_batches` is true, compute each batch as two micro-batches, because an earlier attempt ran out of memory.
    - Remove the checkpoints of every attempt whose number is at most `begins_after`, and do not resume from them.
    - If `final_model` is true, train on the training and the validation images, and evaluate once, after the last
      epoch, on the test images. No other training reads the test images.
    - `objective_metric` is the metric that a user's own training function must report.
    - `data_state` holds the digests of the images when the search was created. The training fails if the images have
      changed.
    - `latency` holds the settings (`domain.objectives.LatencySettings`) with which to measure the latency of the
      trained network.
    - `initial_weights` holds the fields of the `InitialWeights` from which the training starts.
    - Finish after `stop_after` epochs of the recipe, and write a checkpoint from which a later attempt can resume.
    - `recorded_cost` holds the fields of the network's `Cost` in the record. It is None unless code of a package
      computes the cost.
    """

    candidate: int
    attempt: int
    code: list[list[int | float]] | str
    macro: dict[str, Any]
    task: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
    seed: int
    checkpoint_folder: str
    log_file: str
    inherits: bool = False
    split_batches: bool = False
    begins_after: int = 0
    ancestors: list[dict[str, Any]] = field(default_factory=list)
    final_model: bool = False
    data_state: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None
    objective_metric: str = "val_accuracy"
    stop_after: int | None = None
    initial_weights: dict[str, Any] | None = None
    recorded_cost: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """A trained final model from whose weights a training starts: its name, its network and its last checkpoint.

    `code`, `macro` and `task` are as in `Assign`. `digest` is the SHA-256 of the checkpoint's content.
    """

    label: str
    candidate: int
    checkpoint_folder: str
    digest: str
    code: list[list[int | float]] | str
    macro: dict[str, Any]
    task: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Release:
    """Write a checkpoint, stop the training and answer `Released`."""

    candidate: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the training without a checkpoint and answer `Released`."""

    candidate: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Exit:
    """Stop the current training as `Release` does, then exit."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The supervisor is alive. A worker checkpoints and exits after `lease_seconds` without a message."""

    lease_seconds: float


# Reports: from a worker to the supervisor.


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker is ready for its first assignment.

    On a GPU, `gpu_uuid` is the UUID that torch reports, and `marker_bytes` is the size of a block of memory that the
    worker holds until its first assignment. The supervisor finds this block in the driver's list of processes, and
    thereby checks which GPU the worker uses. `half_precision` is true if the recipe's precision `auto` means bfloat16
    on the device. `settings` are the environment variables of the worker that may change the bits of its results.
    """

    pid: int
    versions: dict[str, str]
    device: str
    cpu_capability: str
    gpu_uuid: str | None = None
    marker_bytes: int = 0
    half_precision: bool = False
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The worker cannot train on its device because of `reason`. It sends this message instead of `Ready` and exits."""

    reason: str


@dataclass(frozen=True, slots=True)
class Phase:
    """The training enters a phase.

    `phase` is `loading`, `building`, `training`, `validating`, `testing`, `measuring`, `saving`, `restoring` or `disk
    full`, or `program` while a user's own training function runs. In the phase `program`, a worker may be silent for a
    long time.
    """

    candidate: int
    attempt: int
    phase: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The position of a training: `epoch` (from 0), and the number of finished batches of this epoch (`batch` of
    `batches`).

    `device_seconds` is the time spent in training and validation steps since the assignment. `memory_bytes` is the GPU
    memory that the worker holds now.
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
    """The metrics of one epoch. A final model has no validation metrics.

    `seconds` is the time spent in steps. `ended_at` is the time on the worker's clock, in seconds since 1970. `metrics`
    are the other metrics that a user's own training function reports; None for the built-in training.
    """

    candidate: int
    attempt: int
    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float | None
    seconds: float
    ended_at: float
    metrics: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A checkpoint file is complete on disk. Training resumes from it at `batch` of `epoch`.

    `path` is the name of the file in the checkpoint folder, and `digest` is the SHA-256 of its content.
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
    """The training found checkpoints of its candidate and starts at `batch` of `epoch`.

    `path` is None if no checkpoint can be used. `damaged` maps each unusable file to the reason.
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
class AncestorRetrained:
    """The worker has trained candidate `ancestor` again, because its weights were missing or damaged."""

    candidate: int
    attempt: int
    ancestor: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The training is complete.

    - `accuracy` and `loss` are measured after the last epoch, on the validation images or, for a final model, on the
      test images.
    - `device_seconds` is the time spent in steps since the assignment.
    - `share_inherited` is the share of the parameters that come from the parent. `logit_distance` is the root mean
      square difference between the initial logits of child and parent on validation images, in standard deviations of
      the parent's logits. `share_inherited` and `logit_distance` are None if nothing was inherited. `logit_distance` is
      also None if the tasks differ, if the difference is not finite, and for a final model.
    - `precision` is `float32` or `bfloat16`, or `mixed` if attempts used different precisions.
    - `peak_bytes` is the peak of the GPU memory without the CUDA context, including `images_bytes` for the data set.
    - `latency_ms` is the median latency on the device `latency_device`, or None if the latency was not measured.
      `latency_low` and `latency_high` are the quartiles. `latency_quiet` tells whether the machine did little other
      work during the measurement; None if unknown.
    - `metrics` holds the scores of a user's own training function, in place of `accuracy` and `loss`.
    - `versions` holds the versions of the function's package and of the packages that this package requires.
    - `left_behind` is described in `Released`.
    """

    candidate: int
    attempt: int
    accuracy: float | None
    loss: float | None
    data_digest: str
    device_seconds: float
    share_inherited: float | None = None
    logit_distance: float | None = None
    precision: str = "float32"
    peak_bytes: int | None = None
    images_bytes: int = 0
    latency_ms: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    latency_device: str | None = None
    latency_quiet: bool | None = None
    metrics: dict[str, float] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    left_behind: str = ""


@dataclass(frozen=True, slots=True)
class Released:
    """The training stopped on request.

    A later attempt resumes from the checkpoint of the last `Checkpointed` message, if there is one.

    `left_behind` describes what a user's own training function has changed in the process, such as running threads. If
    this description is not empty, a new worker must replace this worker, because such changes could affect other
    candidates.
    """

    candidate: int
    attempt: int
    device_seconds: float
    left_behind: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The training failed; `kind` is a `states.FailureKind`. If `fatal` is true, the worker exits."""

    candidate: int
    attempt: int
    kind: str
    message: str
    traceback: str
    device_seconds: float
    fatal: bool = False


Command = Assign | Release | Cancel | Exit | Heartbeat
Report = (
    Ready
    | Unavailable
    | Phase
    | Progress
    | EpochDone
    | Checkpointed
    | Resumed
    | AncestorRetrained
    | Finished
    | Released
    | Failed
)
FinalReport = Finished | Released | Failed
"""The last report about a training."""
Message = Command | Report
