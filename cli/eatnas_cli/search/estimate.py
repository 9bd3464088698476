"""`search estimate`: estimate the duration of a search on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from eatnas_cli.advice import advise_on, print_advice
from eatnas_cli.lazy_group import new_app
from eatnas_cli.options import FormatOption, SpecChanges, SpecFile
from eatnas_cli.printing import Format, show_one
from eatnas_cli.sentences import print_note, print_sentence
from eatnas_cli.values import count_of
from eatnas_daemon.data_sets import DataDescription
from eatnas_daemon.devices.capacity import count_slots, find_free_device
from eatnas_daemon.devices.model import CPU, DeviceSnapshot
from eatnas_daemon.devices.monitor import probe_once
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.devices.options import parse_options
from eatnas_daemon.devices.placement import torch_device_name, worker_environment
from eatnas_daemon.search_creation import describe_task, parse_overrides, read_spec_file
from eatnas_daemon.training_programs import run_training_program
from eatnas_db.domain.arithmetic import added_settings
from eatnas_db.domain.final_recipe import final_recipe
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.paper_search import MIN_RESOLUTION, PAPER_GPU_HOURS, PAPER_SPACES, estimate_paper_hours
from eatnas_db.domain.recipe import INHERITED
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.rungs import rungs_of
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import SearchSpec, parse_spec
from eatnas_db.errors import ConflictError
from eatnas_db.settings import Settings
from eatnas_db.spaces import list_plugin_spaces, space_of_spec, store_space

app = new_app()


@app.command()
def estimate(
    ctx: typer.Context,
    spec: SpecFile,
    changes: SpecChanges = None,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of slots of the search. On GPUs, the number of slots of this machine is the maximum. "
            "Default: the slots of this machine.",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=100, help="Number of architectures to measure.")] = 3,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Estimate the duration of a search by measuring a few sampled architectures on this machine.

    The command measures on the first free GPU, or on the CPU if no GPU is free or CUDA_VISIBLE_DEVICES is empty. It
    does not change the database.
    """
    tree, overrides = read_spec_file(spec), parse_overrides(changes or ())
    parsed = parse_spec(tree, overrides, plugin_spaces=list_plugin_spaces())
    if parsed.training.program is not None:
        raise ConflictError(
            f"the duration of {parsed.training.program.reference} cannot be estimated; "
            "run a search of a few candidates (--set budget.candidates=4) and see `eatnas-db query utilisation`"
        )
    device, count = _choose_device(slots)
    task, description = describe_task(ctx.obj, parsed)
    measured = _measure_median(ctx.obj, parsed, task, samples, device)
    estimated = _estimate_durations(parsed, task, description, measured, count)
    advice = advise_on(ctx.obj, parsed, task, description, spec, changes or ())
    if format is Format.TABLE:
        for sentence in _describe_durations(estimated, parsed, f"{device.label} (median of {samples})", count):
            print_sentence(sentence)
        if measured.paper_hours is not None:
            print_sentence(_describe_paper_hours(measured.paper_hours, device, measured.images_per_second))
        print_advice(advice)
        return
    answer = {
        "seconds_per_candidate": estimated.candidate_seconds,
        "device": device.label,
        "samples": samples,
        "candidates": parsed.budget.candidates,
        "reevaluation_trainings": estimated.reevaluation_trainings,
        "slots": count,
        "epochs_per_candidate": estimated.candidate_epochs,
        "search_hours": estimated.hours,
        "reevaluation_hours": estimated.reevaluation_hours,
        "hours": estimated.hours + estimated.reevaluation_hours,
        "final_model_hours": estimated.final.hours,
        "images_per_second": measured.images_per_second,
        "paper_search_hours": measured.paper_hours,
        "advice": asdict(advice),
    }
    show_one(answer, format)


@dataclass(frozen=True, slots=True)
class _FinalModel:
    """The duration of the training of one final model."""

    epochs: int
    images: int
    hours: float


@dataclass(frozen=True, slots=True)
class _Durations:
    """The durations of a search, of its re-evaluation and of a final model, on the slots of this machine.

    `candidate_seconds` and `candidate_epochs` are means over all candidates, some of which may inherit weights.
    """

    candidate_seconds: float
    candidate_epochs: float
    hours: float
    reevaluation_trainings: int
    reevaluation_hours: float
    final: _FinalModel


def _estimate_durations(
    spec: SearchSpec, task: Task, data: DataDescription, measured: _Measured, slots: int
) -> _Durations:
    trainings, candidates = _count_trainings(spec), spec.budget.candidates
    search_seconds = measured.seconds_of(trainings.search, trainings.search_epochs)
    reevaluation_seconds = measured.seconds_of(trainings.reevaluation, trainings.reevaluation_epochs)
    return _Durations(
        candidate_seconds=search_seconds / candidates,
        candidate_epochs=trainings.search_epochs / candidates,
        hours=search_seconds / slots / 3600,
        reevaluation_trainings=trainings.reevaluation,
        reevaluation_hours=reevaluation_seconds / slots / 3600,
        final=_estimate_final(spec, task, data, measured.seconds_per_epoch),
    )


def _describe_durations(estimated: _Durations, spec: SearchSpec, measured_on: str, slots: int) -> Iterator[str]:
    """Yield a sentence for each part of a search."""
    yield (
        f"{estimated.candidate_seconds:.1f} s per candidate on {measured_on}; "
        f"{count_of(spec.budget.candidates, 'candidate')} on {count_of(slots, 'slot')}: "
        f"{_describe_hours(estimated.hours)}"
    )
    if spec.evolution.fidelity is not None:
        yield (
            f"rungs: a candidate is trained for {_epochs_with_rungs(spec):.1f} of {spec.training.epochs} "
            f"epochs on average, if {spec.evolution.fidelity.keep:.0%} of the candidates continue at each rung"
        )
    if estimated.reevaluation_trainings:
        trainings = count_of(estimated.reevaluation_trainings, "training")
        yield (
            f"re-evaluation of the best {spec.reevaluation.top}, {trainings}: "
            f"{_describe_hours(estimated.reevaluation_hours)}; with the search "
            f"{_describe_hours(estimated.hours + estimated.reevaluation_hours)}"
        )
    yield _describe_final(estimated.final)


def _describe_paper_hours(hours: tuple[float, float], device: DeviceSnapshot, images_per_second: float) -> str:
    return (
        f"the search of the EAT-NAS paper ({PAPER_GPU_HOURS} GPU hours on a TITAN X): {hours[0]:,.0f} to "
        f"{hours[1]:,.0f} hours on {device.label}, at {images_per_second:,.0f} images/s"
    )


def _estimate_final(spec: SearchSpec, task: Task, data: DataDescription, seconds_per_epoch: float) -> _FinalModel:
    """Estimate the training of one final model. The time per image grows with the size of the images."""
    recipe = final_recipe(spec.training.model_dump(), spec.final.to_keys())
    images = data.train_images + data.validation_images
    enlarged = (recipe.get("end_resolution", task.resolution) / task.resolution) ** 2
    end_epochs = recipe.get("end_epochs", 0)
    passes = recipe["epochs"] - end_epochs + end_epochs * enlarged
    return _FinalModel(recipe["epochs"], images, seconds_per_epoch * images / data.train_images * passes / 3600)


def _describe_final(final: _FinalModel) -> str:
    epochs = count_of(final.epochs, "epoch")
    return (
        f"each final model, {epochs} on {final.images} images: {_describe_hours(final.hours)}, if an image takes as "
        "long as in the search"
    )


@dataclass(frozen=True, slots=True)
class _Trainings:
    """The trainings of a search's candidates and of its re-evaluation, and their epochs."""

    search: float
    search_epochs: float
    reevaluation: int
    reevaluation_epochs: int


def _count_trainings(spec: SearchSpec) -> _Trainings:
    candidates, epochs = spec.budget.candidates, spec.training.epochs
    children = max(0, candidates - spec.evolution.population)
    child_epochs = spec.inheritance.epochs if spec.inheritance.weights == INHERITED else None
    again = min(spec.reevaluation.top, candidates) * spec.reevaluation.seeds
    search_epochs: float = (candidates - children) * epochs + children * (child_epochs or epochs)
    if spec.evolution.fidelity is not None:  # excludes inherited weights
        search_epochs = candidates * _epochs_with_rungs(spec)
    return _Trainings(
        search=candidates * _trainings_with_rungs(spec),
        search_epochs=search_epochs,
        reevaluation=again,
        reevaluation_epochs=again * (spec.reevaluation.epochs or epochs),
    )


def _epochs_with_rungs(spec: SearchSpec) -> float:
    rungs = rungs_of(spec.model_dump(mode="json"))
    return spec.training.epochs if rungs is None else rungs.mean_epochs


def _trainings_with_rungs(spec: SearchSpec) -> float:
    rungs = rungs_of(spec.model_dump(mode="json"))
    return 1 if rungs is None else rungs.mean_trainings


def _describe_hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"


@dataclass(frozen=True, slots=True)
class _Measured:
    """The speed of the sampled network whose training time is the median. `paper_hours` is None unless the space is one
    of the paper's and the images are large enough for it.
    """

    setup_seconds: float
    """The seconds that a warm worker needs from the start of a training to its first step at full speed."""
    seconds_per_epoch: float
    images_per_second: float
    paper_hours: tuple[float, float] | None

    def seconds_of(self, trainings: float, epochs: float) -> float:
        """Return the duration, in seconds, of `trainings` trainings with `epochs` epochs in total."""
        return self.setup_seconds * trainings + self.seconds_per_epoch * epochs


def _measure_median(
    settings: Settings, spec: SearchSpec, task: Task, samples: int, device: DeviceSnapshot
) -> _Measured:
    """Train sampled architectures briefly on a device. Return the speed of the architecture with the median time."""
    space = Space(space_of_spec(spec), task, Limits(spec.objective.max_params, spec.objective.max_mult_adds))
    space.require_feasible()
    proposals = [space.sample(KeyedRng(spec.seed, "estimate", number), lambda _: False) for number in range(samples)]
    rows = run_training_program(
        "eatnas_training.calibrate",
        request={
            "codes": [space.macro.to_code(proposal.architecture) for proposal in proposals],
            "macro": store_space(space.macro),
            "task": asdict(task),
            "data": settings.locate_data(spec.data.model_dump()),
            "training": spec.training.model_dump(),
            "device": torch_device_name(device),
        },
        environment={**added_settings(spec.training.arithmetic), **worker_environment(device)},
    )
    measured = zip((row["seconds_per_epoch"] for row in rows), range(samples), strict=True)
    seconds_per_epoch, number = sorted(measured)[samples // 2]
    images_per_second: float = rows[number]["images_per_second"]
    paper_hours = None
    if spec.space in PAPER_SPACES and task.resolution >= MIN_RESOLUTION:
        paper_hours = estimate_paper_hours(images_per_second, proposals[number].activations)
    setup_seconds = min(row["setup_seconds"] for row in rows)  # the first network also loads libraries
    return _Measured(setup_seconds, seconds_per_epoch, images_per_second, paper_hours)


def _choose_device(slots: int | None) -> tuple[DeviceSnapshot, int]:
    """Return the device to measure, and the number of slots that can train at its full speed."""
    devices = probe_once(Nvml())
    device = find_free_device(devices, os.environ)
    available = device.cores if device.kind == CPU else count_slots(devices, os.environ)
    if device.kind == CPU and not parse_options(devices, environment=os.environ).use_cpu:
        print_note("measuring on the CPU, because no GPU is available now (see `eatnas-db devices --explain`)")
    if slots is None:
        return device, available
    return device, slots if device.kind == CPU else min(slots, available)
