"""`python -m eatnas_training.worker`: a warm process that trains one candidate after another."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform

import torch

from eatnas_db.domain.messages import Hello
from eatnas_training import loop
from eatnas_training.conversation import Conversation, leave_politely


def versions() -> dict[str, str]:
    """The versions that a score's bits depend on."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for name in ("numpy", "pillow", "eatnas-db"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _warm_up(device: str) -> None:
    """Load what torch loads at its first step, before the first candidate's clock runs."""
    images = torch.ones((2, 4, 8, 8), device=device, requires_grad=True)
    layer = torch.nn.Conv2d(4, 4, 3, groups=4, bias=False).to(device)
    layer(images).sum().backward()
    # Its first construction imports torch's compiler, seconds of it.
    torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, fused=True).step()


def main() -> None:
    """Talk to the supervisor on the two descriptors until told to leave."""
    parser = argparse.ArgumentParser(prog="eatnas_training.worker", description=__doc__)
    parser.add_argument("--in-fd", type=int, required=True)
    parser.add_argument("--out-fd", type=int, required=True)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--threads", type=int, default=1, help="until a recipe says its own")
    asked = parser.parse_args()
    conversation = Conversation(asked.in_fd, asked.out_fd)
    leave_politely(conversation)
    torch.set_num_threads(asked.threads)
    _warm_up(asked.device)
    hello = Hello(
        *(os.getpid(), versions(), asked.device, torch.backends.cpu.get_cpu_capability()),
    )
    conversation.run(hello, lambda assign, wanted: loop.train(assign, wanted, device=asked.device))


if __name__ == "__main__":
    main()
