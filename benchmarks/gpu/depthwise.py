"""Compare the memory layouts of images in depthwise convolutions of many shapes and in the steps of whole networks."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from hand import HandStep
from networks import CODES, have_same_bits, make_images, spaces_of
from recording import Context, Facts
from timing import captured_seconds_of, seconds_of
from torch.nn.functional import conv2d

from eatnas_training.numerics import use_deterministic_arithmetic

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SIDES = {12: 14, 24: 14, 48: 7, 96: 32, 144: 32, 288: 16, 576: 8, 960: 4}
"""The side of the images for each number of channels in the layers of the spaces."""
UNUSUAL_CHANNELS = (1, 2, 3, 5, 13, 61)
UNUSUAL_SIDE = 14
LARGE_BATCH_CHANNELS = (13, 24, 61, 144, 576)
KERNELS = (3, 5, 7)
STRIDES = (1, 2)
PATHOLOGICAL = 4.0
"""A layout counts as slow if it takes more than this many times as long as the other layout."""


def sweep_layouts(context: Context) -> None:
    """Time the steps of networks and depthwise convolutions in both layouts, and compare the bits of two runs."""
    torch.set_num_threads(1)
    use_deterministic_arithmetic()
    compare_networks(context)
    rows = []
    for shape in shapes_of(gpu=context.gpu):
        if context.seconds_left < 0:
            context.facts.set("stopped_early", True)
            break
        rows.append(compare_layouts(context, shape))
    report(context.facts, rows)


def compare_networks(context: Context) -> None:
    """Time the captured step of the median network in both layouts."""
    space, batch_size = spaces_of(gpu=context.gpu)[0], 512 if context.gpu else 16
    images = make_images(space, context.device, 20_000 if context.gpu else 256)
    for precision in DTYPES:
        row: dict[str, Any] = {"dtype": precision, "batch": batch_size}
        for layout in LAYOUTS:
            step = HandStep(
                CODES["median"],
                space,
                images,
                batch_size=batch_size,
                precision=precision,
                steps=20_000 if context.gpu else 200,
                channels_last=layout == "channels_last",
            )
            step.capture()
            row[f"{layout} ms"] = round(1000 * seconds_of(step.step, context.device, 0.4 if context.gpu else 0.02), 3)
        row["faster"] = min(LAYOUTS, key=lambda layout, row=row: row[f"{layout} ms"])
        context.facts.add("median network", row)


def shapes_of(*, gpu: bool) -> Iterator[dict[str, Any]]:
    """Yield the shapes, those of small batches first."""
    batches: dict[int, tuple[int, ...]] = {64: (*UNUSUAL_CHANNELS, *SIDES), 512: LARGE_BATCH_CHANNELS}
    for batch, all_channels in (batches if gpu else {2: (3, 24)}).items():
        for channels, kernel, stride, dtype in product(all_channels, KERNELS, STRIDES, DTYPES):
            shape = {"batch": batch, "channels": channels, "side": SIDES.get(channels, UNUSUAL_SIDE)}
            yield {**shape, "kernel": kernel, "stride": stride, "dtype": dtype}


def compare_layouts(context: Context, shape: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a shape: its time in each layout and whether two runs agree, or the error in that layout."""
    row = dict(shape)
    for layout in LAYOUTS:
        try:
            row |= measure(context, shape, layout)
        except RuntimeError as error:
            row[f"{layout} error"] = str(error)[:200]
    row["fine"] = all(row.get(f"{layout} equal") for layout in LAYOUTS)
    if all(f"{layout} us" in row for layout in LAYOUTS):
        row["ratio"] = round(row["channels_last us"] / row["contiguous us"], 2)
    return row


def measure(context: Context, shape: dict[str, Any], layout: str) -> dict[str, Any]:
    """Return the microseconds of a convolution with both gradients, and whether two runs have equal bits."""
    device, channels, kernel, side = context.device, shape["channels"], shape["kernel"], shape["side"]
    draws = torch.Generator(device).manual_seed(1)

    def draw(*sizes: int) -> torch.Tensor:
        values = torch.randn(sizes, device=device, dtype=DTYPES[shape["dtype"]], generator=draws)
        return values.contiguous(memory_format=LAYOUTS[layout])  # type: ignore[call-overload, no-any-return]

    images, weight = draw(shape["batch"], channels, side, side), draw(channels, 1, kernel, kernel)
    inputs = images.requires_grad_(), weight.requires_grad_()
    side_after = -(-side // shape["stride"])
    gradient = draw(shape["batch"], channels, side_after, side_after)

    def compute() -> list[torch.Tensor]:
        output = conv2d(images, weight, None, shape["stride"], kernel // 2, 1, channels)
        return [output, *torch.autograd.grad(output, inputs, gradient)]

    equal = have_same_bits(compute(), compute())
    seconds = captured_seconds_of(lambda: compute() and None, device, 0.02 if context.gpu else 0.001)
    return {f"{layout} us": round(1e6 * seconds, 1), f"{layout} equal": equal}


def report(facts: Facts, rows: list[dict[str, Any]]) -> None:
    """Record the notable shapes, the ratios of each kind of shape, and the number of slow shapes in each layout."""
    facts.set("shapes", len(rows))
    slow = {
        "channels_last": [row for row in rows if row.get("ratio", 1) > PATHOLOGICAL],
        "contiguous": [row for row in rows if row.get("ratio", 1) < 1 / PATHOLOGICAL],
    }
    for row in rows:
        if not row["fine"] or any(row in found for found in slow.values()):
            facts.add("notable", row)
    for batch, dtype, kernel, stride in dict.fromkeys(kind_of(row) for row in rows):
        alike = [row for row in rows if kind_of(row) == (batch, dtype, kernel, stride) and "ratio" in row]
        if not alike:
            continue
        ratios = [row["ratio"] for row in alike]
        kind = {"batch": batch, "dtype": dtype, "kernel": kernel, "stride": stride, "shapes": len(alike)}
        times = {f"{layout} us": round(sum(row[f"{layout} us"] for row in alike)) for layout in LAYOUTS}
        spread = {"median": round(statistics.median(ratios), 2), "least": min(ratios), "most": max(ratios)}
        facts.add("channels_last / contiguous", {**kind, **times, **spread})
    for dtype in DTYPES:
        counts = {f"slow {layout}": sum(row["dtype"] == dtype for row in slow[layout]) for layout in LAYOUTS}
        facts.add("pathological", {"dtype": dtype, **counts})
    failing = sum(not row["fine"] for row in rows)
    facts.bar("shapes that fail or differ", failing, "0", met=not failing)
    count, wanted = len(slow["channels_last"]), f"0 above {PATHOLOGICAL:.0f} times contiguous"
    facts.bar("pathologically slow channels-last", count, wanted, met=not count, must=False)


def kind_of(row: dict[str, Any]) -> tuple[int, str, int, int]:
    """Return the batch size, data type, kernel and stride of a row."""
    return row["batch"], row["dtype"], row["kernel"], row["stride"]
