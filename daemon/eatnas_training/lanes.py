"""Several trainings in one process, which take turns: each lane has pipes of its own and speaks the worker's protocol.

All lanes share one thread, one device context and one copy of the images. A turn ends after a batch. On a GPU, a turn
only enqueues the work of a batch on the stream of its lane, so that the GPU computes for all lanes in parallel. A file
holds the number of the lane that has its turn. If the process dies or hangs, the supervisor reads from this file which
lane is the cause.

This module does not import torch, because the tests' simulated worker imports it.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from eatnas_protocol.lane_turns import NOBODY, encode_turn
from eatnas_protocol.messages import Ready
from eatnas_training.worker_protocol import POLL_SECONDS, Trainer, WorkerProtocol

LaneContext = Callable[[int], AbstractContextManager[object]]
"""A function from the number of a lane, counted from 0, to the context in which the lane's turn runs."""


def train_by_turns(
    lanes: Sequence[WorkerProtocol],
    ready: Ready,
    trainer: Trainer,
    turn_fd: int,
    context: LaneContext = lambda _: nullcontext(),
) -> bool:
    """Run all lanes until each has ended, and return True. Return False as soon as a training has broken the process.

    `turn_fd` is the descriptor of the file that holds the number of the lane that has its turn.
    """
    running = {}
    for number, lane in enumerate(lanes):
        lane.takes_turns = True
        running[number] = lane.turns(ready, trainer)
    while running:
        trains = False
        for number, turns in list(running.items()):
            os.pwrite(turn_fd, encode_turn(number), 0)
            with context(number):
                trains_here = next(turns, None)
            if lanes[number].broken:
                return False
            if trains_here is None:
                lanes[number].close()
                del running[number]
            trains = trains or bool(trains_here)
        os.pwrite(turn_fd, encode_turn(NOBODY), 0)
        if running and not trains:
            select.select([lanes[number].in_fd for number in running], [], [], POLL_SECONDS)
    return True
