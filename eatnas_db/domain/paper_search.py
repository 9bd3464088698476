"""How long the search of the EAT-NAS paper would take on a device, from the measured speed of a training there.

The paper states 856 GPU hours on a TITAN X, and not how many images were trained. Trainings of its networks move more
data than they compute with, so the speed of a TITAN X follows from the bandwidth of its memory. Which model it was, and
which share of the bandwidth was reached, is unknown; hence a low and a high estimate.
"""

from __future__ import annotations

from typing import Final

PAPER_GPU_HOURS: Final = 856
PAPER_SPACES: Final = ("eatnas-cifar", "eatnas-imagenet")
"""The spaces with the networks of the paper."""
MIN_RESOLUTION: Final = 32
"""The time of a step on smaller images is not that of moving data."""
TITAN_X_BYTES_PER_SECOND: Final = (0.2 * 336e9, 0.5 * 480e9)
"""A fifth of the bandwidth of the model of 2015, and half the bandwidth of the model of 2016: assumed, not measured."""
MOVES: Final = 7
"""How often a step moves each value that it keeps for the backward pass.

A convolution with batch norm and ReLU keeps two values for each output. Writing and reading them in both passes, and
their gradients, moves 14.
"""
FLOAT32_BYTES: Final = 4


def estimate_paper_hours(images_per_second: float, activations: int) -> tuple[float, float]:
    """Return the least and the most hours of the paper's search on a device that trains a network this fast.

    `activations` are the values per image that the network's training keeps in memory.
    """
    bytes_per_image = MOVES * FLOAT32_BYTES * activations
    low, high = (speed / bytes_per_image for speed in TITAN_X_BYTES_PER_SECOND)
    return PAPER_GPU_HOURS * low / images_per_second, PAPER_GPU_HOURS * high / images_per_second
