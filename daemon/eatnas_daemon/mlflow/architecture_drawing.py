"""An architecture as JSON and as a drawing: small files for MLflow, made without a library."""

from __future__ import annotations

import math
from html import escape
from typing import Any, Final

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.cost import after_stride
from eatnas_db.domain.macro import Macro, Task

FILLS: Final = {"sep": "#F0E442", "mb3": "#56B4E9", "mb6": "#E69F00"}
"""Okabe and Ito's: told apart by colour-blind people. The operation is written too."""
ROW: Final = 44
WIDTH: Final = 600
MIDDLE: Final = 170
WIDEST: Final = 280


def describe_architecture(architecture: Architecture, macro: Macro, task: Task) -> dict[str, Any]:
    """The network in plain values: each block's primitives, and the channels and side that the macro gives it."""
    return {
        "code": str(architecture),
        "authors_code": architecture.to_code(),
        "space": macro.name,
        "resolution": task.resolution,
        "classes": task.classes,
        "stem": {"channels": macro.stem_channels, "stride": macro.stem_stride},
        "blocks": [
            {
                "op": block.op,
                "kernel": block.kernel,
                "skip": block.skip,
                "depth": block.depth,
                "width": block.width,
                "channels": channels,
                "stride": stride,
                "side": side,
            }
            for block, channels, stride, side in _course(architecture, macro, task)
        ],
        "head": {"channels": macro.head_channels},
    }


def draw_architecture(architecture: Architecture, macro: Macro, task: Task, title: str) -> str:
    """An SVG, from the image at the top to the classes: a bar's length is its channels, a stack its depth."""
    course = _course(architecture, macro, task)
    most = max(macro.stem_channels, macro.head_channels, *(channels for _, channels, _, _ in course))

    def length(channels: int) -> float:
        # By the root: otherwise the first blocks would be slivers beside the last.
        return max(34.0, WIDEST * math.sqrt(channels / most))

    rows = [_words(0, f"image {task.resolution} x {task.resolution} x {task.channels}")]
    rows.append(_bar(1, length(macro.stem_channels), 1, "#DDDDDD", f"stem, {macro.stem_channels} channels"))
    for number, (block, channels, stride, side) in enumerate(course, 1):
        told = f"{number}: {block.depth} x {block.op} {block.kernel}x{block.kernel}, {channels} channels"
        told += f", to {side}x{side}" if stride > 1 else f", {side}x{side}"
        rows.append(_bar(number + 1, length(channels), block.depth, FILLS[block.op], told))
        if block.skip:
            rows.append(_skip(number + 1, length(channels)))
    last = len(course) + 2
    rows.append(_bar(last, length(macro.head_channels), 1, "#DDDDDD", f"head, {macro.head_channels} channels"))
    rows.append(_words(last + 1, f"{task.classes} classes"))
    height = 30 + ROW * (last + 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="#FFFFFF"/>'
        f'<text x="{MIDDLE}" y="20" text-anchor="middle" font-weight="bold">{escape(title)}</text>'
        f"{''.join(rows)}</svg>\n"
    )


def _course(architecture: Architecture, macro: Macro, task: Task) -> list[tuple[Any, int, int, int]]:
    """Each block with its channels, its stride, and the side of what it gives in pixels."""
    side = after_stride(task.resolution, macro.stem_stride)
    course = []
    for position, block in enumerate(architecture):
        stride = macro.strides[position]
        side = after_stride(side, stride)
        course.append((block, macro.block_channels(position, block.width), stride, side))
    return course


def _bar(row: int, length: float, depth: int, fill: str, beside: str) -> str:
    left, top = MIDDLE - length / 2, 30 + ROW * row
    layers = "".join(
        f'<rect x="{left + 3 * layer:.0f}" y="{top - 3 * layer}" width="{length:.0f}" height="26" rx="4" '
        f'fill="{fill}" stroke="#000000"/>'
        for layer in reversed(range(depth))
    )
    return f'{layers}<text x="{MIDDLE + WIDEST / 2 + 20:.0f}" y="{top + 17}">{escape(beside)}</text>'


def _skip(row: int, length: float) -> str:
    left, top = MIDDLE - length / 2, 30 + ROW * row
    return (
        f'<path d="M {MIDDLE} {top - 8} H {left - 14:.0f} V {top + 32} H {MIDDLE}" fill="none" stroke="#0072B2" '
        f'stroke-width="1.5" stroke-dasharray="4 2"><title>bypass</title></path>'
    )


def _words(row: int, words: str) -> str:
    return f'<text x="{MIDDLE}" y="{30 + ROW * row + 20}" text-anchor="middle">{escape(words)}</text>'
