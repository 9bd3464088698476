"""Try examples/imagenet-final.yaml on a few small JPEGs in 1,000 class folders, with and without a kill.

The final model trains at 64 pixels on 800 images, which are streamed like ImageNet's images. A run that is killed after
its first checkpoint and started again must end with the same scores. The program also calls `search estimate` for the
same spec.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from streaming import make_folder

EXAMPLE: Final = Path(__file__).parents[1] / "examples" / "imagenet-final.yaml"
CLASSES: Final = 1000
CHANGES: Final = {
    "data.resolution": 64,
    "data.train_images": 600,
    "data.validation_images": 200,
    "training.epochs": 1,
    "training.batch_size": 50,
    "training.checkpoint_seconds": 0.1,
}
SEARCH: Final = "imagenet-final"
SCORES: Final = "SELECT metric, value FROM scores ORDER BY metric"
KILL_WITHIN_SECONDS: Final = 1800


def command(home: Path, *arguments: str) -> list[str]:
    """Return the command line of an eatnas-db command on a home."""
    return [sys.executable, "-m", "eatnas_cli", "--home", str(home), *arguments]


def call(home: Path, *arguments: str) -> str:
    """Run a command on a home, and return its output."""
    done = subprocess.run(command(home, *arguments), check=True, capture_output=True, text=True)
    print("$ eatnas-db", *arguments, f"\n{done.stdout}", flush=True)
    return done.stdout


def prepare(folder: Path, epochs: int) -> Path:
    """Create the images and a home with one final model to train. Return the home."""
    images, home = folder / "images", folder / "home"
    make_folder(images, images=2 * CLASSES, side=72, classes=CLASSES)
    make_folder(folder / "test", images=CLASSES, side=72, classes=CLASSES)
    (folder / "test" / "train").rename(images / "val")
    changes = [f"--set={key}={value}" for key, value in {"data.root": images, **CHANGES}.items()]
    call(home, "init")
    if "each final model" not in call(home, "search", "estimate", str(EXAMPLE), *changes, "--samples", "1"):
        raise AssertionError("the estimate does not mention final models")
    call(home, "search", "create", str(EXAMPLE), *changes)
    call(home, "search", "final", SEARCH, "--candidate", "1", "--seeds", "1", "--epochs", str(epochs))
    return home


def train(home: Path, *, kill: bool) -> str:
    """Train the final model. If `kill` is true, kill the run once after the first checkpoint. Return the scores."""
    run = command(home, "run", f"{SEARCH}.final", "--slots", "1")
    if kill:
        with subprocess.Popen(run) as process:
            deadline = time.monotonic() + KILL_WITHIN_SECONDS
            while not any(home.glob("**/c*-a1-*.ckpt")):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError("the training wrote no checkpoint")
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
    started = time.monotonic()
    subprocess.run(run, check=True)
    print(f"trained in {time.monotonic() - started:.0f} s", flush=True)
    return call(home, "query", "sql", SCORES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = prepare(Path(folder), options.epochs)
        copy = Path(shutil.copytree(home, Path(folder) / "copy"))
        calm, killed = train(home, kill=False), train(copy, kill=True)
    if calm != killed:
        raise AssertionError(f"the training has other scores after a kill:\n{calm}\n{killed}")
    print(f"the final model of {EXAMPLE.name} has the same scores after a kill")


if __name__ == "__main__":
    main()
