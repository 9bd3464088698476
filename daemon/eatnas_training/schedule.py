"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math


def learning_rate(step: int, total_steps: int, peak: float, warmup: float) -> float:
    """The rate of `step` (from 0): linear up to `peak` over the share `warmup`, then a cosine to 0.

    The first step's rate is above 0 already, and the last one's as well; 0 is reached behind it.
    """
    rising = round(total_steps * warmup)
    if step < rising:
        return peak * ((step + 1) / rising)
    share = (step - rising) / max(1, total_steps - rising)
    return peak * (1 + math.cos(math.pi * share)) / 2
