"""The steps of the part `product`: commands, the GPU tests, and searches that commands start."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from machine import record_machine
from recording import Context, run_program

GPU_TESTS = "gpu and not machine"
FREE_MEMORY_SHARE = 0.006
"""The share of the GPU's memory that a worker may use in the step `memory`."""
STRANGER = """
import sys, time, torch
until = time.monotonic() + float(sys.argv[2])
matrix = torch.randn(4096, 4096, device=sys.argv[1])
print("running", flush=True)
while time.monotonic() < until:
    matrix = torch.nn.functional.normalize(matrix @ matrix)
    if matrix.is_cuda:
        torch.cuda.synchronize()
"""
STRANGER_SECONDS = 8.0
POLL_SECONDS = 0.5


class Home:
    """The home folder of a step, which runs commands."""

    def __init__(self, name: str, **variables: str) -> None:
        self.folder = Path(os.environ.get("EATNAS_HOME", ".eatnas-gpu")) / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.environment = {**os.environ, "EATNAS_HOME": str(self.folder), **variables}

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of an eatnas-db command."""
        return [sys.executable, "-m", "eatnas_cli", *arguments]

    def run(self, *arguments: str, expected: tuple[int, ...] = (0,)) -> str:
        """Run a command and return its output. Exit unless its status is expected."""
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode not in expected:
            print(done.stdout, done.stderr, sep="\n")
            sys.exit(f"eatnas-db {' '.join(arguments)} exited with status {done.returncode}")
        return done.stdout

    def rows(self, *arguments: str, expected: tuple[int, ...] = (0,)) -> Any:
        """Run a command and return its parsed JSON output."""
        return json.loads(self.run(*arguments, "--format", "json", expected=expected))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command whose output goes to the output of the step."""
        return subprocess.Popen(self.command(*arguments), env=self.environment, stdin=subprocess.DEVNULL)

    def create(self, spec: dict[str, Any]) -> str:
        """Create a search and return its name."""
        self.run("search", "create", self.write(spec))
        return str(spec["name"])

    def write(self, spec: dict[str, Any]) -> str:
        """Create the home and the file of a spec, and return the path of the file."""
        self.run("init")
        file = self.folder.parent / f"{spec['name']}.yaml"
        file.write_text(json.dumps(spec))  # JSON is YAML
        return str(file)


def search_spec(context: Context, name: str, candidates: int, **training: Any) -> dict[str, Any]:
    """Return a spec for FashionMNIST, or for the digits if the device is a CPU or FashionMNIST's files are missing."""
    small = context.root is None or not context.gpu
    data: dict[str, Any] = {"name": "digits"}
    if not small:
        data = {"name": "FashionMNIST", "root": context.root, "train_images": 20_000, "validation_images": 10_000}
    population = max(4, candidates // 4)
    return {
        "name": name,
        "seed": 0,
        "space": "eatnas-tiny" if small else "eatnas-small",
        "data": data,
        "training": {"epochs": 2, "batch_size": 64 if small else 256, "learning_rate": 0.1, **training},
        "evolution": {"population": population, "tournament": max(2, population // 2), "lag": 4},
        "budget": {"candidates": candidates},
        "reevaluation": {"top": 0},
    }


def device_options(context: Context, workers: int) -> list[str]:
    """Return the options of `run` for this number of workers."""
    options = ["--slots", str(workers)]
    return [*options, "--max-per-device", str(workers)] if context.gpu else [*options, "--devices", "cpu"]


def check_doctor(context: Context) -> None:
    home = Home("doctor")
    home.run("init")
    findings = home.rows("doctor", expected=(0, 1))
    problems = [row for row in findings if not row["ok"]]
    for row in problems:
        context.facts.add("problems", row)
    for row in findings:
        if "GPU" in row["what"] or "device" in row["what"]:
            context.facts.add("devices", {"what": row["what"], "ok": row["ok"], "found": row["found"]})
    others = [row["what"] for row in problems if "mlflow" not in f"{row['what']} {row['found']}".lower()]
    context.facts.bar("problems besides MLflow", others, "[]", met=not others)


def check_devices(context: Context) -> None:
    home = Home("devices")
    lines = home.run("devices", "--explain").strip().splitlines()
    for line in lines:
        context.facts.add("explained", {"line": line})
    if context.gpu:
        free = any(line.startswith("GPU") and ": free" in line for line in lines)
        context.facts.bar("a GPU is free", free, "true", met=free)


def run_tests(context: Context) -> None:
    """Run the tests that are skipped without a GPU."""
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "pytest_timeout",
        "-W",
        "ignore",
        "-o",
        "addopts=",
        "-o",
        "filterwarnings=",
    ]
    names = ("steps", "step_tables", "step_graph", "weight_casts")
    files = [f"tests/training/test_{name}.py" for name in names]
    existing = [file for file in files if Path(file).exists()]
    selection = ["-k", GPU_TESTS] if context.gpu else ["-k", "meta or reads_values"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", *options, *existing, *selection]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    print(done.stdout[-6000:], done.stderr[-2000:])
    summary = (done.stdout.strip().splitlines() or [""])[-1]
    passed = done.returncode == 0 and "passed" in summary
    context.facts.bar("the GPU tests", summary, "all passed, none skipped", met=passed and "skipped" not in summary)


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the pids of the workers of a running search."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child.pid for child in children if "eatnas_training.worker" in child.cmdline()]
    except psutil.Error:
        return []


def run_search(context: Context) -> None:
    """Run a search, kill one of its workers, and let another process use its GPU for some seconds."""
    candidates = 48 if context.gpu else 8
    home = Home("search")
    name = home.create(search_spec(context, "gpu", candidates))
    facts = context.facts
    started = time.monotonic()
    with running(home.start("run", name, *device_options(context, 4 if context.gpu else 2))) as search:
        wait_for(context, search, lambda: scored(home, name) >= candidates // 8)
        facts.set("seconds_to_first_scores", round(time.monotonic() - started, 1))
        victims = workers_of(search)
        for pid in victims[:1]:
            psutil.Process(pid).kill()
        facts.set("workers_before_the_kill", len(victims))
        wait_for(context, search, lambda: scored(home, name) >= candidates // 4)
        if search.poll() is None:
            meet_stranger(context, home, name, search)
        wait_for(context, search, lambda: search.poll() is not None)
        ended = search.poll()
    facts.set("seconds", round(time.monotonic() - started, 1))
    facts.bar("exit status of run", ended, "0", met=ended == 0)
    count = scored(home, name)
    facts.bar("candidates scored", count, str(candidates), met=count == candidates)
    failures = home.rows("query", "failures", name)
    for row in failures[:8]:
        facts.add("failures", {key: row[key] for key in list(row)[:6]})
    facts.bar("failed or lost attempts", len(failures), "at least the killed worker's", met=len(failures) >= 1)
    facts.set("utilisation", home.rows("query", "utilisation", name))
    facts.set("best", home.rows("query", "best", name)[:1])
    facts.set("log", (home.folder / "logs").exists() and daemon_log(home))


def scored(home: Home, name: str) -> int:
    """Return the number of scored candidates."""
    return int(home.rows("search", "show", name)["scored"])


def meet_stranger(context: Context, home: Home, name: str, search: subprocess.Popen[bytes]) -> None:
    """Compute on the device in another process. On a GPU, require that the workers leave and later return."""
    facts = context.facts
    before = scored(home, name)
    command = [sys.executable, "-c", STRANGER, context.device, str(STRANGER_SECONDS)]
    started = time.monotonic()
    left_after: float | None = None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as stranger:
        while stranger.poll() is None:
            if context.gpu and left_after is None and not workers_of(search):
                left_after = time.monotonic() - started
            time.sleep(0.1)
    facts.set("scored_while_the_other_process_ran", scored(home, name) - before)
    if not context.gpu:
        return
    seconds = None if left_after is None else round(left_after, 1)
    facts.bar("workers leave", f"{seconds} s", f"within {STRANGER_SECONDS:.0f} s", met=seconds is not None)
    explained = home.run("daemon", "status", expected=(0, 1, 3))
    facts.set("status_afterwards", explained.splitlines()[:6])
    wait_for(context, search, lambda: bool(workers_of(search)) or search.poll() is not None)
    returned = round(time.monotonic() - started - STRANGER_SECONDS, 1)
    facts.bar("workers return", f"{returned} s later", "within 45 s", met=bool(workers_of(search)) and returned <= 45)


def daemon_log(home: Home) -> list[str]:
    """Return the last lines of the daemon's log."""
    logs = sorted((home.folder / "logs").glob("daemon*.log"))
    return logs[-1].read_text(errors="replace").splitlines()[-25:] if logs else []


def compare_workers(context: Context) -> None:
    """Run the same search with one worker, with several workers and, on a GPU, in lanes; compare the fingerprints."""
    fingerprints = {}
    several = 4 if context.gpu else 2
    for kind, workers in (("one", 1), ("several", several), *([("lanes", several)] if context.gpu else [])):
        home = Home(f"workers-{kind}")
        name = home.create(search_spec(context, "equal", 12 if context.gpu else 6, epochs=1))
        started = time.monotonic()
        options = ["--lanes", str(workers)] if kind == "lanes" else device_options(context, workers)
        with running(home.start("run", name, *options)) as search:
            wait_for(context, search, lambda search=search: search.poll() is not None)
        fingerprints[kind] = home.run("query", "fingerprint", name).strip()
        seconds = round(time.monotonic() - started, 1)
        context.facts.add("runs", {"workers": kind, "seconds": seconds, "fingerprint": fingerprints[kind]})
    equal = len(set(fingerprints.values())) == 1
    context.facts.bar("fingerprints of one and several workers", "equal" if equal else "differ", "equal", met=equal)


def exhaust_memory(context: Context) -> None:
    """Run a search whose workers may use so little memory that the larger networks exceed it."""
    if not context.gpu:
        context.skip("only a GPU has a memory limit for each worker")
    limit = f"per_process_memory_fraction:{FREE_MEMORY_SHARE}"
    home = Home("memory", PYTORCH_ALLOC_CONF=limit, PYTORCH_CUDA_ALLOC_CONF=limit)
    spec = search_spec(context, "memory", 8, epochs=1, batch_size=1024)
    name = home.create(spec)
    with running(home.start("run", name, *device_options(context, 2))) as search:
        wait_for(context, search, lambda: search.poll() is not None)
        ended = search.poll()
    failures = home.rows("query", "failures", name)
    for row in failures[:12]:
        context.facts.add("failures", {key: row[key] for key in list(row)[:6]})
    events = home.rows("query", "events", name, "--limit", "200")
    kinds = [row["kind"] for row in events]
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    context.facts.set("events", counts)
    context.facts.bar("exit status of run", ended, "0 or 4", met=ended in (0, 4))
    alone = counts.get("to_be_alone", 0)
    context.facts.bar("trainings tried again alone", alone, "at least 1", met=alone >= 1)


def estimate_paper_search(context: Context) -> None:
    """Estimate how long the search of the EAT-NAS paper takes on the device, from measured images/s."""
    home = Home("estimate")
    spec = search_spec(context, "paper", 48, batch_size=256 if context.gpu else 8)
    spec |= {"space": "eatnas-cifar", "data": {**spec["data"], "resolution": 32}}
    samples = "3" if context.gpu else "1"
    answer = home.rows("search", "estimate", home.write(spec), "--samples", samples)
    kept = ("device", "images_per_second", "paper_search_hours", "seconds_per_candidate", "hours")
    context.facts.set("estimate", {key: answer[key] for key in kept})
    hours, device = answer["paper_search_hours"], answer["device"]
    context.facts.bar("hours of the paper's search", hours, "a range", met=bool(hours))
    context.facts.bar("the measured device", device, "a GPU", met=not context.gpu or device.startswith("GPU"))


@contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process, and stop it at the end of the block in any case."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(context: Context, search: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, the search has ended, or no time is left."""
    while context.seconds_left > 0 and not condition() and search.poll() is None:
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    run_program(
        __doc__,
        {
            "machine": record_machine,
            "doctor": check_doctor,
            "devices": check_devices,
            "tests": run_tests,
            "search": run_search,
            "workers": compare_workers,
            "estimate": estimate_paper_search,
            "memory": exhaust_memory,
        },
    )
