"""The steps of the part `training`: bits and speed of training steps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from bandwidth import count_step_bytes, measure_bandwidth
from depthwise import sweep_layouts
from hand import HandStep
from machine import record_machine
from networks import (
    CODES,
    have_same_bits,
    make_images,
    make_runner,
    next_step,
    random_codes,
    spaces_of,
    state_of,
)
from norms import compare_norms
from recording import Context, run_program
from timing import seconds_of, synchronize

from eatnas_training.data.resident import ResidentPart
from eatnas_training.lane_state import LaneState
from eatnas_training.numerics import resolve_precision, use_deterministic_arithmetic
from eatnas_training.steps import StepRunner

BITS_CODES = 24
BITS_STEPS = 10
BATCHES = (64, 512)
LANES = (1, 2, 4, 8)
LANE_STEPS = 12
"""The number of steps before the bits are compared. On a GPU, the first steps are called, the others replayed."""
MPS_CONTROL = "nvidia-cuda-mps-control"


def prepare() -> None:
    """Use the arithmetic of the training loop in all measurements."""
    torch.set_num_threads(1)
    use_deterministic_arithmetic()


def compare_bits(context: Context) -> None:
    """Train random networks twice with captured steps and once with called steps, and compare all weights."""
    prepare()
    count = BITS_CODES if context.gpu else 2
    spaces = spaces_of(gpu=context.gpu)
    images = {space: make_images(space, context.device, 4096 if context.gpu else 256) for space in spaces}
    equal, compared = 0, 0
    for number, code in enumerate(random_codes(spaces[0], count, seed=5)):
        space, precision = spaces[number % len(spaces)], ("auto", "float32")[number % 2]
        row: dict[str, Any] = {"code": code, "space": space, "precision": precision}
        try:
            states = []
            for tables in (True, True, False):
                recipe = {"batch_size": 64, "precision": precision}
                runner = make_runner(code, space, context.device, images[space], tables=tables, **recipe)
                for _ in range(BITS_STEPS):
                    next_step(runner)
                states.append(state_of(runner.state.model))
                row["captured"] = row.get("captured", True) and (not tables or is_captured(runner) == context.gpu)
            row["equal twice"], row["equal calls"] = (have_same_bits(states[0], other) for other in states[1:])
            row["equal"] = row["equal twice"] and row["equal calls"] and row["captured"]
        except RuntimeError as error:
            row["equal"], row["error"] = False, str(error)[:300]
        compared += 1
        equal += row["equal"]
        if not row["equal"]:
            context.facts.add("differing", row)
        if context.seconds_left < 0:
            break
    context.facts.bar("networks with equal bits", f"{equal} of {compared}", f"{count} of {count}", met=equal == count)


def is_captured(runner: StepRunner) -> bool:
    """Return whether the next step of a training replays a graph."""
    return runner._table_steps is not None and runner._table_steps.graph.is_captured


def measure_speed(context: Context) -> None:
    """Measure captured steps and called steps of the training loop, and the hand-written captured step."""
    prepare()
    device, facts = context.device, context.facts
    bandwidth = measure_bandwidth(device, (1 << 31) if context.gpu else (1 << 24))
    facts.set("bandwidth_gb_per_s", round(bandwidth / 1e9, 1))
    precision = resolve_precision(device, "auto")
    ratios, captures, gains = [], [], {}
    for space in spaces_of(gpu=context.gpu):
        images = make_images(space, device, 20_000 if context.gpu else 256)
        for name, batch_size in product(CODES, BATCHES if context.gpu else (16,)):
            if context.seconds_left < 0:
                facts.set("stopped_early", True)
                return
            seconds = 0.6 if context.gpu else 0.05
            runner = make_runner(CODES[name], space, device, images, batch_size=batch_size, tables=False)
            called = seconds_of(lambda runner=runner: next_step(runner), device, seconds)
            runner = make_runner(CODES[name], space, device, images, batch_size=batch_size)
            own_capture = seconds_to_capture(runner, device)
            ours = seconds_of(lambda runner=runner: next_step(runner), device, seconds)
            hand = HandStep(
                CODES[name],
                space,
                images,
                batch_size=batch_size,
                precision=precision,
                steps=20_000 if context.gpu else 200,
            )
            hand.capture()
            captured = seconds_of(hand.step, device, seconds)
            bound = count_step_bytes(CODES[name], space, batch_size, precision) / bandwidth
            ratios.append(captured / ours)
            if name == "median":
                gains.setdefault(batch_size, []).append(called / ours)
                captures.append(own_capture)
            facts.add(
                "images_per_second",
                {
                    "space": space,
                    "network": name,
                    "batch": batch_size,
                    "ours": round(batch_size / ours),
                    "ours, called": round(batch_size / called),
                    "captured by hand": round(batch_size / captured),
                    "ours / called": round(called / ours, 2),
                    "ours / captured": round(captured / ours, 3),
                    "bandwidth bound": round(batch_size / bound),
                    "share of bound": round(bound / ours, 3),
                    "capture s": round(own_capture, 2),
                },
            )
            del runner, hand
    if context.gpu and ratios:
        worst = min(ratios)
        for batch_size, wanted in zip(BATCHES, (3.0, 1.8), strict=True):
            gain = round(min(gains[batch_size]), 2)
            bar = f"captured / called, median network, batch {batch_size}"
            facts.bar(bar, gain, f"at least {wanted}", met=gain >= wanted, must=False)
        last = round(captures[-1], 2)
        facts.bar("seconds of a capture, warm", last, "at most 1", met=last <= 1, must=False)
        facts.bar("our loop / captured by hand, worst", round(worst, 3), "at least 0.95", met=worst >= 0.95, must=False)


def seconds_to_capture(runner: StepRunner, device: str) -> float:
    """Train until the step is captured, and return the seconds of the step that captures."""
    for _ in range(runner.warm_up_steps - 1):
        next_step(runner)
    synchronize(device)
    started = time.perf_counter()
    next_step(runner)
    synchronize(device)
    return time.perf_counter() - started


def compare_pipeline(context: Context) -> None:
    """Compare the training loop of eatnas-db with a DataLoader and PIL."""
    if context.gpu and context.root:
        options = ["--root", context.root, "--batch-size", "512", "--loaders", "8", "--seconds", "3", "--rounds", "2"]
    else:
        options = ["--data", "digits", "--space", "eatnas-tiny", "--seconds", "0.3", "--rounds", "1", "--loaders", "1"]
    lines = run_benchmark(context, "output", ["--packed", "1", *options, "--kinds", "loop", "pipeline"])
    ratio = next((float(line.split(": ")[1].split()[0]) for line in lines if line.startswith("loop relative")), None)
    if context.gpu and ratio is not None:
        context.facts.bar("our loop / DataLoader and PIL", ratio, "at least 5", met=ratio >= 5, must=False)


def run_benchmark(context: Context, name: str, options: list[str], **variables: str) -> list[str]:
    """Run `benchmarks/training.py` in the time that the step has left, and record and return its lines."""
    program = Path(__file__).parents[1] / "training.py"
    command = [sys.executable, str(program), "--device", context.device, *options]
    log = Path(tempfile.mkdtemp()) / "output"
    with log.open("wb") as output:
        # a file, because the content of a pipe would be lost if the benchmark is killed
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **variables})
        try:
            status: int | str = process.wait(max(1, context.seconds_left))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = "out of time"
    lines = log.read_text(errors="replace").strip().splitlines()
    context.facts.set(name, lines)
    context.facts.bar(f"exit status of the benchmark, {name}", status, "0", met=status == 0)
    return lines


def run_lanes(context: Context) -> None:
    """Train several candidates in turn in one process, as the option `--lanes` does; compare speed and bits."""
    prepare()
    device, facts = context.device, context.facts
    for space in spaces_of(gpu=context.gpu):
        images, alone, expected = make_images(space, device, 20_000 if context.gpu else 256), 0.0, None
        for count in LANES if context.gpu else LANES[:2]:
            if context.seconds_left < 0:
                facts.set("stopped_early", True)
                return
            lanes = RunningLanes(space, device, images, count)
            for _ in range(LANE_STEPS):
                lanes.take_turns()
            states = [state_of(runner.state.model) for runner in lanes.runners]
            expected = expected or states[0]
            equal = all(have_same_bits(expected, state) for state in states)
            rate = count * 64 / seconds_of(lanes.take_turns, device, 1.2 if context.gpu else 0.1)
            alone = alone or rate
            times = round(rate / alone, 2)
            row = {"space": space, "candidates": count, "images/s": round(rate), "times one": times, "equal": equal}
            facts.add("lanes", row)
            facts.bar(f"bits of {count} candidates in {space}", equal, "equal to those of one alone", met=equal)
            if space == "eatnas-small" and count == LANES[-1]:
                facts.bar("8 candidates / one", times, "at least 4", met=times >= 4, must=False)


class RunningLanes:
    """Equal trainings in the lanes of this process."""

    def __init__(self, space: str, device: str, images: ResidentPart, count: int) -> None:
        self._context = LaneState(device, count)
        self.runners = []
        for lane in range(count):
            with self._context(lane):
                self.runners.append(make_runner(CODES["median"], space, device, images, batch_size=64))

    def take_turns(self) -> None:
        """Train a batch in each lane."""
        for lane, runner in enumerate(self.runners):
            with self._context(lane):
                next_step(runner)


def run_processes(context: Context) -> None:
    """Run the training loop in several processes at the same time, without and with MPS."""
    if not context.gpu:
        context.skip("on a CPU, processes do not share a device")
    if context.root is None:
        context.skip("the step needs the files of FashionMNIST")
    measure_processes(context, "without MPS")
    if shutil.which(MPS_CONTROL) is None:
        context.facts.set("with MPS", "not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        variables = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        environment = {**os.environ, **variables}
        started = subprocess.run([MPS_CONTROL, "-d"], env=environment, capture_output=True, text=True, check=False)
        if started.returncode:
            context.facts.set("with MPS", f"did not start: {started.stderr.strip()}")
            return
        try:
            measure_processes(context, "with MPS", **variables)
        finally:
            subprocess.run([MPS_CONTROL], input="quit\n", env=environment, capture_output=True, text=True, check=False)


def measure_processes(context: Context, name: str, **variables: str) -> None:
    """Measure four processes at the same time, with these additional environment variables."""
    options = ["--root", str(context.root), "--batch-size", "64", "--kinds", "loop", "--packed", "4"]
    run_benchmark(context, name, [*options, "--seconds", "2", "--rounds", "2"], **variables)


if __name__ == "__main__":
    run_program(
        __doc__,
        {
            "machine": record_machine,
            "bits": compare_bits,
            "speed": measure_speed,
            "lanes": run_lanes,
            "depthwise": sweep_layouts,
            "norm": compare_norms,
            "pipeline": compare_pipeline,
            "processes": run_processes,
        },
    )
