"""Describe an architecture as JSON values and as an SVG drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from eatnas_db.domain.architecture import OPS, Architecture, parse_block
from eatnas_db.domain.cost import output_side
from eatnas_db.domain.macro import Macro, Task
from eatnas_report.palette import GREEN, ORANGE, SKY_BLUE, YELLOW
from eatnas_report.templating import render_template

FILLS: Final = {"sep": YELLOW, "mb3": SKY_BLUE, "mb6": ORANGE}
STEM_FILL: Final = "#DDDDDD"
ROW_HEIGHT: Final = 44
DRAWING_MARGIN: Final = 30
_SIZE: Final = {"row_height": ROW_HEIGHT, "margin": DRAWING_MARGIN}
MIN_BAR_WIDTH: Final = 34.0
MAX_BAR_WIDTH: Final = 280.0


@dataclass(frozen=True, slots=True)
class PlacedBlock:
    """A block in a macro: its output channels, its stride, and the side of its output in pixels."""

    op: str
    kernel: int
    skip: bool
    depth: int
    width: float
    channels: int
    stride: int
    side: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of the drawing: a stack of `depth` bars of `width` pixels, and its label."""

    label: str
    width: float
    fill: str
    depth: int = 1
    skip: bool = False


def describe_architecture(code: str, stored_macro: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Return the network as JSON values: stem, head, and each block with its channels and output side.

    For a space of another class than `Macro`, describe only the blocks. The space's plug-in need not be installed.
    """
    if not is_macro(stored_macro):
        size = {"resolution": task.resolution, "classes": task.classes}
        return {"code": code, "space": stored_macro["name"], **size, "blocks": code.split("/")}
    architecture, macro = _read(code, stored_macro)
    authors_code = {} if "ops" in stored_macro else {"authors_code": architecture.to_code()}
    return {
        "code": str(architecture),
        **authors_code,
        "space": macro.name,
        "resolution": task.resolution,
        "classes": task.classes,
        "stem": {"channels": macro.stem_channels, "stride": macro.stem_stride},
        "blocks": [asdict(block) for block in _place_blocks(architecture, macro, task)],
        "head": {"channels": macro.head_channels},
    }


def is_macro(stored_space: Mapping[str, Any]) -> bool:
    """Return whether a stored space is a macro of EAT-NAS, and not a space of another class."""
    return "stem_channels" in stored_space and "plugin" not in stored_space


def drawing_height(blocks: int) -> int:
    """Return the height in pixels of the drawing of a network with this number of blocks; its width is 640."""
    stem_and_head, image_and_classes = 2, 2
    return DRAWING_MARGIN + ROW_HEIGHT * (blocks + stem_and_head + image_and_classes)


def draw_architecture(code: str, stored_macro: Mapping[str, Any], task: Task, title: str) -> str:
    """Return an SVG of the network from top to bottom. The length of a bar shows the number of channels, and the number
    of bars in a stack shows the depth of a block.

    For a space of another class than `Macro`, all bars have the same length. The space's plug-in need not be installed.
    """
    if not is_macro(stored_macro):
        blocks_only = [
            Bar(f"{number}: {text}", MAX_BAR_WIDTH, SKY_BLUE) for number, text in enumerate(code.split("/"), 1)
        ]
        return render_template("architecture.svg.jinja", title=title, task=task, bars=blocks_only, **_SIZE)
    architecture, macro = _read(code, stored_macro)
    blocks = _place_blocks(architecture, macro, task)
    max_channels = max(macro.stem_channels, macro.head_channels, *(block.channels for block in blocks))

    def width(channels: int) -> float:
        # The square root keeps the short bars of the first blocks visible next to the long bars of the last blocks.
        return max(MIN_BAR_WIDTH, MAX_BAR_WIDTH * math.sqrt(channels / max_channels))

    bars = [
        Bar(f"stem, {macro.stem_channels} channels", width(macro.stem_channels), STEM_FILL),
        *(
            Bar(_label(number, block), width(block.channels), FILLS.get(block.op, GREEN), block.depth, block.skip)
            for number, block in enumerate(blocks, 1)
        ),
        Bar(f"head, {macro.head_channels} channels", width(macro.head_channels), STEM_FILL),
    ]
    return render_template("architecture.svg.jinja", title=title, task=task, bars=bars, **_SIZE)


def _read(code: str, stored_macro: Mapping[str, Any]) -> tuple[Architecture, Macro]:
    """Return the architecture and the macro of a network without loading its operators, which need not be installed."""
    names = tuple(stored_macro.get("ops", OPS))
    plain = {key: value for key, value in stored_macro.items() if key not in ("ops", "plugins")}
    return Architecture(tuple(parse_block(text, names) for text in code.split("/"))), Macro.from_json(plain)


def _place_blocks(architecture: Architecture, macro: Macro, task: Task) -> list[PlacedBlock]:
    side = output_side(task.resolution, macro.stem_stride)
    placed = []
    for position, block in enumerate(architecture):
        stride = macro.strides[position]
        side = output_side(side, stride)
        placed.append(
            PlacedBlock(
                op=block.op,
                kernel=block.kernel,
                skip=block.skip,
                depth=block.depth,
                width=block.width,
                channels=macro.block_channels(position, block.width),
                stride=stride,
                side=side,
            )
        )
    return placed


def _label(number: int, block: PlacedBlock) -> str:
    layers = f"{block.depth} × {block.op} {block.kernel}×{block.kernel}"
    return f"{number}: {layers}, {block.channels} channels, {block.side}×{block.side}{', skip' if block.skip else ''}"
