"""`python -m eatnas_training.selftest DEVICE`: check that torch can train on a device of this machine."""

from __future__ import annotations

import json
import sys
from typing import Any, Final, cast

import torch
from torch.nn.functional import cross_entropy

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.spec_recipe import TrainingRecipe
from eatnas_db.garbage_collection import skip_last_collection
from eatnas_training import network
from eatnas_training.error_messages import first_line
from eatnas_training.numerics import resolve_precision, use_deterministic_arithmetic
from eatnas_training.optimizer import make_optimizer

NETWORK: Final = (
    "sep_k3_d1_w1.0/mb3_k5_d2_w1.0_skip/mb6_k7_d1_w1.0/sep_k5_d2_w1.0_skip/mb3_k7_d1_w1.0/mb6_k3_d1_w1.0/sep_k7_d1_w1.0"
)
"""A network of the space `eatnas-tiny` with every operation and every kernel size."""
_BUILDS: Final = "https://pytorch.org/get-started lists the builds"


def train_all_operations(device: str) -> None:
    """Train a small network that has every operation and kernel size, in every precision.

    This detects errors that would make every candidate fail. It also makes torch load the modules that the first
    training step needs. Raises torch's own exception if torch cannot train on the device.
    """
    use_deterministic_arithmetic()
    model = network.build(Architecture.parse(NETWORK), PRESETS["eatnas-tiny"], Task(8, 1, 10))
    network.initialize(model, 0)
    model.to(device=device)
    cast("Any", model).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, TrainingRecipe())
    images, labels = torch.zeros((2, 1, 8, 8), device=device), torch.zeros(2, dtype=torch.int64, device=device)
    for precision in dict.fromkeys(("float32", resolve_precision(device, "auto"))):
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    loss.item()  # waits for the device, which reports its errors asynchronously
    if device != "cpu":
        # This raises an error if the loaded cuDNN library belongs to another version of torch.
        torch.backends.cudnn.version()  # type: ignore[no-untyped-call]


def describe_failure(device: str, error: Exception) -> str:
    """Describe the error that keeps torch from training on the device, with a remedy if one is known."""
    message = first_line(error)
    if device == "cpu":
        return message
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} was built without CUDA; {_BUILDS} with CUDA"
    if "Found no NVIDIA driver" in message:
        return (
            "torch finds no CUDA driver, although the driver lists the GPU; "
            "in a container, set NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        )
    if "no kernel image is available" in message:
        return f"torch {torch.__version__} was not built for this GPU; {_BUILDS} for other GPUs"
    return message


def main() -> None:
    """Print `{"torch": …, "trouble": …}`; `trouble` is null if torch can train."""
    skip_last_collection()
    (device,) = sys.argv[1:]
    trouble = None
    try:
        train_all_operations(device)
    except Exception as error:
        trouble = describe_failure(device, error)
    version = f"{torch.__version__} for CUDA {torch.version.cuda}" if torch.version.cuda else str(torch.__version__)
    print(json.dumps({"torch": version, "trouble": trouble}))


if __name__ == "__main__":
    main()
