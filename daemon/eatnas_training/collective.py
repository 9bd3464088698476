"""Compute sums over the processes of a training on several devices."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import torch
from torch import Tensor, distributed

LOOPBACK: Final = "127.0.0.1"


class CollectiveError(Exception):
    """The processes of a training could not exchange tensors, because one of them has ended or does not answer."""


def open_tcp_store(rank: int, count: int, port: int, seconds: float) -> Any:
    """Return the store through which the processes find each other.

    With `port` 0, the process of rank 0 chooses a port.
    """
    timeout = timedelta(seconds=seconds)
    return distributed.TCPStore(  # type: ignore[attr-defined]
        LOOPBACK, port, count, is_master=rank == 0, timeout=timeout, wait_for_workers=False
    )


def join(store: Any, rank: int, count: int, seconds: float) -> None:
    """Connect this process to the other processes of the training.

    Each later exchange fails if it takes longer than `seconds`.
    """
    if sys.platform == "linux":  # gloo would otherwise resolve the host name, which may have no address
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        distributed.init_process_group(
            "gloo", store=store, rank=rank, world_size=count, timeout=timedelta(seconds=seconds)
        )
    except RuntimeError as error:
        raise CollectiveError(str(error)) from error


def leave() -> None:
    """Disconnect this process from the others."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes. All tensors of one dtype are added in one operation.

    This keeps the order of the additions the same in every step. torch's DistributedDataParallel instead adds the
    tensors in several buckets, and forms new buckets after the first step of a process. With more than two processes, a
    resumed training would therefore add in a different order.
    """
    try:
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            group = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            distributed.all_reduce(flat)
            for tensor, total in zip(group, torch.split(flat, [tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(total.view(tensor.shape))
    except RuntimeError as error:
        raise CollectiveError(str(error)) from error


def broadcast(content: bytes | None) -> bytes:
    """Return, in every process, the content that rank 0 passes. The other processes pass None."""
    try:
        size = torch.tensor([0 if content is None else len(content)])
        distributed.broadcast(size, 0)
        buffer = torch.zeros(int(size), dtype=torch.uint8)
        if content is not None:
            buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        distributed.broadcast(buffer, 0)
    except RuntimeError as error:
        raise CollectiveError(str(error)) from error
    return buffer.numpy().tobytes()
