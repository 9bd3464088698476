"""Whether torch can compute on a device here: `python -m eatnas_training.readiness DEVICE` prints what it finds."""

from __future__ import annotations

import json
import sys
from typing import Final

import torch

from eatnas_training.readers import first_line

_BUILDS: Final = "https://pytorch.org/get-started names the builds"


def warm_up(device: str) -> None:
    """Load what torch loads at its first step, before the first candidate's clock runs.

    Raises what torch does where it cannot compute there.
    """
    images = torch.ones((2, 4, 8, 8), device=device, requires_grad=True)
    layer = torch.nn.Conv2d(4, 4, 3, groups=4, bias=False).to(device)
    layer(images).sum().backward()
    # Its first construction imports torch's compiler, seconds of it.
    torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, fused=True).step()


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
