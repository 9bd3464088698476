"""Try eatnas-db on a machine with a GPU and without a network: everything of one part in at most four minutes.

    python3 run.py --part product --out FOLDER      # doctor, devices, tests, searches
    python3 run.py --part training --out FOLDER     # bits and speed of the training

It installs from the folder that `prepare.py` made, which is the folder of this file or `--bundle`. Each step is a
process with a time limit; if one fails, the next runs. After each step, `gpu-PART.json` and the page `gpu-PART.md` in
the output folder hold all results so far. `--device cpu` rehearses everything with tiny sizes on a machine without a
GPU, and gives each step more time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from steps import PART_SECONDS, PARTS, Step, steps_of

SKIPPED_STATUS = 77
"""The exit status of a step that does not apply to the machine."""
INSTALL_SECONDS = 60.0
REHEARSAL_FACTOR = 4.0
"""The factor on the limits of steps on a processor, which may be slow and busy."""
OUTPUT_LINES = 60
"""The last lines of a step's output that the JSON keeps."""
PAGE_LINES = 25


class Results:
    """The results of a part, written to their files after each step."""

    def __init__(self, out: Path, part: str, facts: dict[str, Any]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.content: dict[str, Any] = {"part": part, **facts, "seconds": 0.0, "steps": []}
        self._files = out / f"gpu-{part}.json", out / f"gpu-{part}.md"
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds since the part began."""
        return time.monotonic() - self._started

    def add(self, row: dict[str, Any]) -> None:
        """Add the result of a step and write both files."""
        self.content["steps"].append(row)
        self.content["seconds"] = round(self.seconds, 1)
        json_file, page = self._files
        json_file.write_text(json.dumps(self.content, indent=1) + "\n")
        page.write_text(format_page(self.content))
        print(f"{row['name']}: {row['outcome']} after {row['seconds']:.1f} s", flush=True)


def format_page(content: dict[str, Any]) -> str:
    """Return the results as Markdown: a table of the steps, then the figures and the output of each."""
    lines = [f"# GPU run, part {content['part']}", ""]
    lines += [f"- {name}: {content[name]}" for name in ("commit", "started_at", "device", "seconds")]
    lines += ["", "| step | outcome | seconds | limit | what it shows |", "|---|---|---|---|---|"]
    for row in content["steps"]:
        lines.append(f"| {row['name']} | {row['outcome']} | {row['seconds']} | {row['limit']} | {row['shows']} |")
    for row in content["steps"]:
        lines += ["", f"## {row['name']}: {row['outcome']}"]
        facts = row["facts"]
        if bars := facts.get("bars"):
            lines += ["", "| bar | measured | wanted | met |", "|---|---|---|---|"]
            lines += [f"| {b['bar']} | {b['measured']} | {b['wanted']} | {'yes' if b['met'] else 'no'} |" for b in bars]
        for name, value in facts.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                if name != "bars":
                    lines += ["", f"`{name}`", "", *format_table(value)]
            elif name != "bars":
                lines += ["", f"`{name}`: {json.dumps(value)}"]
        if row["output"] and row["outcome"] != "passed":
            lines += ["", "```text", *row["output"][-PAGE_LINES:], "```"]
    return "\n".join(lines) + "\n"


def format_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return rows as a Markdown table with the columns of all rows."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [str(row.get(name, "")).replace("|", "\\|").replace("\n", " ") for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def run_process(
    command: list[str], *, seconds: float, environment: dict[str, str], folder: Path, log: Path
) -> tuple[int | None, float]:
    """Run a command and return its status and its seconds; None as the status means that it ran out of time.

    After the command, everything that it has started is killed.
    """
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status: int | None
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return status, time.monotonic() - started


def install(bundle: Path, work: Path, results: Results) -> bool:
    """Install the wheels into a new folder, and unpack the sources. Return whether both succeeded."""
    wheels = sorted(str(wheel) for wheel in (bundle / "wheels").glob("*.whl"))
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(work / "site"), *wheels]
    log = work / "install.log"
    status, seconds = run_process(command, seconds=INSTALL_SECONDS, environment=dict(os.environ), folder=work, log=log)
    try:
        shutil.unpack_archive(bundle / "sources.tar.gz", work / "sources")
    except (OSError, shutil.ReadError) as error:
        status = 1
        log.write_text(f"{log.read_text()}\n{error}\n")
    row = {"name": "install", "shows": "the carried wheels install without a network"}
    results.add({**row, **describe_end(status, seconds, INSTALL_SECONDS), "facts": {}, "output": last_lines(log)})
    return status == 0


def describe_end(status: int | None, seconds: float, limit: float) -> dict[str, Any]:
    """Return how a process has ended, as fields of a result."""
    outcome = {0: "passed", None: "out of time", SKIPPED_STATUS: "skipped"}.get(status, "failed")
    return {"outcome": outcome, "status": status, "seconds": round(seconds, 1), "limit": round(limit, 1)}


def last_lines(file: Path) -> list[str]:
    """Return the last lines of a text file, none if it does not exist."""
    return file.read_text(errors="replace").splitlines()[-OUTPUT_LINES:] if file.exists() else []


def read_facts(file: Path) -> dict[str, Any]:
    """Return the measurements of a step, even if the step was killed."""
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return facts


def run_step(step: Step, options: argparse.Namespace, work: Path, limit: float) -> dict[str, Any]:
    """Run a step for at most `limit` seconds and return its result."""
    facts, log, folder = work / f"{step.name}.json", work / f"{step.name}.log", work / "sources"
    program, name = step.arguments
    command = [sys.executable, str(folder / "benchmarks" / "gpu" / program), name]
    command += ["--device", options.device, "--facts", str(facts), "--seconds", f"{limit:.0f}"]
    data = options.bundle / "FashionMNIST"
    if data.exists():
        command += ["--root", str(data)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(work / "site"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "EATNAS_HOME": str(work / "home"),
        "TMPDIR": str(work / "tmp"),
    }
    row: dict[str, Any] = {"name": step.name, "shows": step.shows}
    if limit < 1:
        return {**row, **describe_end(SKIPPED_STATUS, 0.0, 0.0), "facts": {}, "output": ["no time was left"]}
    try:
        status, seconds = run_process(command, seconds=limit, environment=environment, folder=folder, log=log)
    except OSError as error:
        return {**row, **describe_end(1, 0.0, limit), "facts": {}, "output": [str(error)]}
    return {**row, **describe_end(status, seconds, limit), "facts": read_facts(facts), "output": last_lines(log)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--device", default="cuda:0", help="device, cuda:N; or cpu, to rehearse with tiny sizes")
    parser.add_argument("--bundle", type=Path, default=Path(__file__).parent, help="the folder that prepare.py made")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-results")))
    parser.add_argument("--steps", nargs="+", help="names of the steps to run; default: all")
    parser.add_argument("--seconds", type=float, default=PART_SECONDS, help="time limit of the part")
    options = parser.parse_args()
    options.bundle = options.bundle.resolve()
    factor = REHEARSAL_FACTOR if options.device == "cpu" else 1.0
    steps = [step for step in steps_of(options.part) if not options.steps or step.name in options.steps]
    commit = options.bundle / "commit"
    facts = {
        "commit": commit.read_text().strip() if commit.exists() else "unknown",
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": options.device,
        "python": sys.version.split()[0],
        "limit": options.seconds * factor,
    }
    work = Path(tempfile.mkdtemp(prefix="eatnas-gpu-"))
    (work / "tmp").mkdir()
    results = Results(options.out.resolve(), options.part, facts)
    try:
        if install(options.bundle, work, results):
            for step in steps:
                limit = min(step.seconds * factor, options.seconds * factor - results.seconds)
                results.add(run_step(step, options, work, limit))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    outcomes = [row["outcome"] for row in results.content["steps"]]
    print(f"{options.part}: {outcomes.count('passed')} of {len(outcomes)} steps passed in {results.seconds:.0f} s")
    sys.exit(0 if set(outcomes) <= {"passed", "skipped"} else 1)


if __name__ == "__main__":
    main()
