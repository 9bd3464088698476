"""Estimate the duration of the EAT-NAS paper's search on a device from the measured speed of a training.

The paper states 856 GPU hours on a TITAN X, but not the number of images. Memory bandwidth limits the trainings of the
paper's networks, so the speed of a TITAN X follows from its bandwidth. Neither the model of the card nor the share of
its bandwidth that the trainings reached is known, so the estimate is a range.
"""

from __future__ import annotations

from typing import Final

PAPER_GPU_HOURS: Final = 856
PAPER_SPACES: Final = ("eatnas-cifar", "eatnas-imagenet")
"""The spaces that contain the networks of the paper."""
MIN_RESOLUTION: Final = 32
"""The estimate is not valid for smaller images, because memory bandwidth does not limit training on such images."""
TITAN_X_BYTES_PER_SECOND: Final = (0.2 * 336e9, 0.5 * 480e9)
"""The assumed range of bandwidth in use: a fifth of 336 GB/s (TITAN X of 2015) to half of 480 GB/s (TITAN X of 2016).
"""
MOVES: Final = 7
"""The number of times that a training step moves each value that it keeps for the backward pass.

A convolution with batch norm and ReLU keeps two values for each output. To write and read these values and their
gradients in both passes, a step moves 14 values.
"""
FLOAT32_BYTES: Final = 4


def estimate_paper_hours(images_per_second: float, activations: int) -> tuple[float, float]:
    """Return the minimum and the maximum duration in hours of the paper's search on a device.

    The device trains a network at `images_per_second`. `activations` is the number of values per image that the
    training keeps in memory (`domain.activations`).
    """
    bytes_per_image = MOVES * FLOAT32_BYTES * activations
    low, high = (speed / bytes_per_image for speed in TITAN_X_BYTES_PER_SECOND)
    return PAPER_GPU_HOURS * low / images_per_second, PAPER_GPU_HOURS * high / images_per_second
