"""Check a plug-in's data set by using it as searches do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from eatnas_db.interpreter import python_command

PROGRAM: Final = "eatnas_training.prepare"
HASH_SEEDS: Final = ("1", "2")
"""With these two hash seeds, Python orders sets differently."""


def check_dataset(
    name: str, root: str | Path = ".", *, test_part: bool = True, timeout: float = 300.0, **data: Any
) -> dict[str, Any]:
    """Check a data set by the name that a spec uses, and return its description.

    Two new processes read all items and must get the same digest. With `test_part`, they also read the test part, as
    final models do. `timeout` is the limit for each process in seconds. `data` are further keys of a spec's section
    `data`, for example `resolution=32` or `options={…}`. Raises `AssertionError` with the fault in one line.
    """
    section = {"name": name, "root": str(Path(root).absolute()), **data}
    first, second = (_run("describe", section, hash_seed, timeout) for hash_seed in HASH_SEEDS)
    if first["data_digest"] != second["data_digest"]:
        raise AssertionError(
            f"two processes got different images of {name}: digest {first['data_digest'][:12]} and "
            f"{second['data_digest'][:12]}; an item must depend on its index alone"
        )
    if test_part:
        first["test_images"] = _run("final", section, HASH_SEEDS[0], timeout)["test_images"]
    return first


def _run(command: str, section: Mapping[str, Any], hash_seed: str, timeout: float) -> dict[str, Any]:
    # Pass on `sys.path`, because the package under test may be importable only through this path.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    try:
        done = subprocess.run(
            python_command("-m", PROGRAM, command),
            input=json.dumps(section),
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{section['name']} was not read within {timeout:g} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"the process ended with status {done.returncode}"]
        raise AssertionError(lines[-1])
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
