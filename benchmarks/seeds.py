"""Check with many seeds that the fingerprint of a simulated search does not depend on the number of slots.

`--out FILE` receives a JSON line for every seed. If the file exists, the program continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from storm.searches import StormSearch, run_search
from storm.workloads import SIMULATED

SLOT_COUNTS = (1, 2, 4)
SEARCH = StormSearch(SIMULATED)


def check_seed(folder: Path, seed: int) -> dict[str, Any]:
    """Run the search of a seed with every number of slots, and return the result."""
    started = time.perf_counter()
    fingerprints = {
        slots: run_search(SEARCH.new_home(folder / f"{seed}-{slots}", seed), slots, SEARCH) for slots in SLOT_COUNTS
    }
    return {
        "seed": seed,
        "equal": len(set(fingerprints.values())) == 1,
        "fingerprints": fingerprints,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="number of seeds; default: 100")
    parser.add_argument("--first", type=int, default=1, help="first seed; default: 1")
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to or create")
    options = parser.parse_args()
    results: dict[int, dict[str, Any]] = {}
    if options.out and options.out.exists():
        results = {line["seed"]: line for line in map(json.loads, options.out.read_text().splitlines())}
    seeds = range(options.first, options.first + options.seeds)
    for seed in seeds:
        if seed not in results:
            with tempfile.TemporaryDirectory(prefix="eatnas-seeds-") as folder:
                results[seed] = check_seed(Path(folder), seed)
            line = json.dumps(results[seed])
            print(line, flush=True)
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                with options.out.open("a") as file:
                    file.write(line + "\n")
    different = [seed for seed in seeds if not results[seed]["equal"]]
    print(
        f"{len(seeds)} seeds with {', '.join(map(str, SLOT_COUNTS))} slots: {len(different)} differ {different or ''}"
    )
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
