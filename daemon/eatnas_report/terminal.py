"""Curves on the terminal, in braille: each sign is two dots wide and four high."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eatnas_db.queries.quality import PopulationStep
from eatnas_report.plots import COMPUTE, thinned

_DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
Curve = Sequence[tuple[float, float]]


def quality_curve(steps: Sequence[PopulationStep], *, over_compute: bool) -> str:
    """The population's mean and best over births or over device seconds."""
    told = [step for step in thinned(steps) if step.mean is not None]
    across = [step.device_seconds if over_compute else float(step.number) for step in told]
    mean = [step.mean or 0.0 for step in told]
    spread = [step.spread or 0.0 for step in told]
    best = [step.best or 0.0 for step in told]
    picture = plot(
        [list(zip(across, best, strict=True)), list(zip(across, mean, strict=True))],
        across=COMPUTE if over_compute else "births",
    )
    if not told:
        return picture
    return f"{picture}\nabove: best {best[-1]:.4f}; below: mean {mean[-1]:.4f} ± {spread[-1]:.4f}"


def plot(curves: Sequence[Curve], *, width: int = 72, height: int = 14, across: str = "") -> str:
    """Curves of points (x, y) as text, with the ends of both axes written beside them."""
    points = [point for curve in curves for point in curve]
    if not points:
        return "nothing to draw yet"
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    wide, tall = 2 * width - 1, 4 * height - 1
    signs = [[0x2800] * width for _ in range(height)]

    def column(x: float) -> int:
        return round((x - left) / (right - left or 1) * wide)

    def dot(x: int, y: float) -> None:
        row = tall - round((y - low) / (high - low or 1) * tall)
        signs[row // 4][x // 2] |= _DOTS[row % 4][x % 2]

    for curve in curves:
        for (x, y), (next_x, next_y) in zip(curve, [*curve[1:], curve[-1]], strict=True):
            start, end = column(x), column(next_x)
            for at in range(start, end + 1):
                dot(at, y + (next_y - y) * (at - start) / max(end - start, 1))
    labels = [f"{high:.4f}", *[""] * (height - 2), f"{low:.4f}"]
    margin = max(map(len, labels))
    lines = [
        f"{label:>{margin}} ┤{''.join(map(chr, row))}".rstrip("⠀") for label, row in zip(labels, signs, strict=True)
    ]
    middle = across.center(width - len(f"{left:g}") - len(f"{right:g}"))
    return "\n".join([*lines, f"{'':{margin}} └{'─' * width}", f"{'':{margin}}  {left:g}{middle}{right:g}"])
