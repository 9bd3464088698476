"""Print the row of this machine for the table in docs/reproducibility.md: the fingerprints of a standard search.

    python benchmarks/reproducibility.py

The search trains 6 networks on the bundled digits, once with native and once with portable arithmetic. Processors with
equal fingerprints compute the same bits.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from eatnas_db.domain.arithmetic import NATIVE, PORTABLE

SPEC = {
    "name": "standard",
    "space": "eatnas-tiny",
    "data": {"name": "digits", "train_images": 512, "validation_images": 256},
    "training": {"epochs": 2, "augment": "shift", "precision": "float32", "threads": 1},
    "evolution": {"population": 3, "tournament": 2, "lag": 2},
    "budget": {"candidates": 6},
    "reevaluation": {"top": 0},
}
VERSIONS = """
import torch
print(torch.__version__.split("+")[0], torch.backends.cpu.get_cpu_capability())
"""
DIGITS = 12
"""The number of hexadecimal digits to print of each fingerprint."""


def processor_name() -> str:
    """Return the name of the processor, with its family and model where the system gives them."""
    fields: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"


def fingerprint(arithmetic: str) -> str:
    """Run the standard search and return its fingerprint. Exit with an error message if a command fails."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "standard.yaml"  # JSON is YAML
        spec.write_text(json.dumps(SPEC))
        eatnas = [sys.executable, "-m", "eatnas_cli", "--home", f"{folder}/home"]
        for arguments in (
            ["init"],
            ["search", "create", str(spec), "--set", f"training.arithmetic={arithmetic}"],
            ["run", "standard", "--slots", "1", "--devices", "cpu"],
        ):
            done = subprocess.run([*eatnas, *arguments], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        command = [*eatnas, "query", "fingerprint", "standard", "--format", "json"]
        answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return str(answer[0]["sha256"])[:DIGITS]


def main() -> None:
    """Print the row."""
    versions = subprocess.run([sys.executable, "-c", VERSIONS], capture_output=True, text=True, check=True)
    torch, instructions = versions.stdout.split()
    fingerprints = f"`{fingerprint(NATIVE)}` | `{fingerprint(PORTABLE)}`"
    print(f"| {processor_name()} | {instructions} | {torch} | {fingerprints} |")


if __name__ == "__main__":
    main()
