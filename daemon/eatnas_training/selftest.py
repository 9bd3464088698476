"""Whether torch can compute on a device here: `python -m eatnas_training.selftest DEVICE` prints what it finds."""

from __future__ import annotations

import json
import sys
from typing import Any, Final, cast

import torch
from torch.nn.functional import cross_entropy

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.spec import TrainingSpec
from eatnas_training import network
from eatnas_training.dataset_files import first_line
from eatnas_training.loop import optimizer_of, precision_on, settle_arithmetic

_NETWORK: Final = Architecture.parse(
    "sep_k3_d1_w1.0/mb3_k5_d2_w1.0_skip/mb6_k7_d1_w1.0/sep_k5_d2_w1.0_skip/mb3_k7_d1_w1.0/mb6_k3_d1_w1.0/sep_k7_d1_w1.0"
)
_BUILDS: Final = "https://pytorch.org/get-started names the builds"


def warm_up(device: str) -> None:
    """Train a small network with every operation and kernel, in every precision: what fails now costs no candidate.

    It loads what torch loads at its first step, too. Raises what torch does where it cannot compute there.
    """
    settle_arithmetic()
    model = network.build(_NETWORK, PRESETS["eatnas-tiny"], Task(8, 1, 10))
    network.initialize(model, 0)
    model.to(device=device)
    cast("Any", model).to(memory_format=torch.channels_last)
    # Its first construction imports torch's compiler, seconds of it.
    optimizer = optimizer_of(model, TrainingSpec())
    images, labels = torch.zeros((2, 1, 8, 8), device=device), torch.zeros(2, dtype=torch.int64, device=device)
    for precision in dict.fromkeys(("float32", precision_on(device, "auto"))):
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    loss.item()  # waits for the device, whose errors come late
    if device != "cpu":
        torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # it knows a library of another torch's


def why_not(device: str, error: Exception) -> str:
    """What keeps torch from computing there, with a way out where one is known."""
    words = first_line(error)
    if device == "cpu":
        return words
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} was built without CUDA; {_BUILDS} with it"
    if "Found no NVIDIA driver" in words:
        return (
            "torch finds no CUDA driver, though the GPU is listed; a container needs "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        )
    if "no kernel image is available" in words:
        return f"torch {torch.__version__} was not built for this GPU; {_BUILDS} that are"
    return words


def main() -> None:
    """Print `{"torch": …, "trouble": …}`; no trouble is null."""
    (device,) = sys.argv[1:]
    trouble = None
    try:
        warm_up(device)
    except Exception as error:
        trouble = why_not(device, error)
    built = f"{torch.__version__} for CUDA {torch.version.cuda}" if torch.version.cuda else str(torch.__version__)
    print(json.dumps({"torch": built, "trouble": trouble}))


if __name__ == "__main__":
    main()
