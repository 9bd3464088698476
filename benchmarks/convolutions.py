"""Check the forward pass and both gradients of every convolution of the small spaces against float64.

    python benchmarks/convolutions.py                              # the processor's own instruction set
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/convolutions.py      # as on processors without AVX-512

A child process checks many shapes. After a crash, a new child process continues with the next shape. The program prints
every shape that crashes its process or whose error exceeds `TOLERANCE`, and exits with status 1 if it has printed any.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product

from eatnas_db.domain.architecture import KERNELS, OPS, WIDTHS
from eatnas_db.domain.cost import EXPANSION, output_side
from eatnas_db.domain.macro import PRESETS, Macro

TOLERANCE = 1e-4
"""The largest accepted error, relative to the largest magnitude of the exact result."""
BATCHES = (1, 33)
SIDES = {"eatnas-tiny": (8, 16), "eatnas-small": (28,)}
HANG_SECONDS = 120


@dataclass(frozen=True, order=True)
class Shape:
    """A convolution from an input of the shape `[batch, inputs, side, side]` to `outputs` channels."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    groups: int
    side: int
    batch: int


def shapes_of(macro: Macro, side: int, image_channels: int) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Yield (inputs, outputs, kernel, stride, groups, side) of every convolution that the macro can contain."""
    yield image_channels, macro.stem_channels, 3, macro.stem_stride, 1, side
    side = output_side(side, macro.stem_stride)
    incoming = {macro.stem_channels}
    for position, stride in enumerate(macro.strides):
        outgoing = {macro.block_channels(position, width) for width in WIDTHS}
        first, later = (incoming, stride, side), (outgoing, 1, output_side(side, stride))
        for inputs, step, size in ((i, s, n) for channels, s, n in (first, later) for i in channels):
            reduced = output_side(size, step)
            for operation, kernel in product(OPS, KERNELS):
                hidden = inputs if operation == "sep" else EXPANSION[operation] * inputs
                if operation != "sep":
                    yield inputs, hidden, 1, 1, 1, size
                yield hidden, hidden, kernel, step, hidden, size
                for outputs in outgoing:
                    yield hidden, outputs, 1, 1, 1, reduced
                    yield inputs, outputs, 1, step, 1, size
        incoming, side = outgoing, output_side(side, stride)
    for inputs in incoming:
        yield inputs, macro.head_channels, 1, 1, 1, side


def all_shapes() -> list[Shape]:
    """Return every distinct shape of a convolution in the small spaces."""
    found = {
        Shape(*fields, batch)
        for name, sides in SIDES.items()
        for side in sides
        for channels in (1, 3)
        for fields in shapes_of(PRESETS[name], side, channels)
        for batch in BATCHES
    }
    return sorted(found)


def error_of(shape: Shape) -> float:
    """Return the largest relative error of the forward pass and of both gradients."""
    import torch

    from eatnas_training.network import Convolution

    generator = torch.Generator().manual_seed(1)
    module = Convolution(shape.inputs, shape.outputs, shape.kernel, shape.stride, shape.groups)
    with torch.no_grad():
        module.weight.normal_(0, 1, generator=generator)
    images = torch.randn(shape.batch, shape.inputs, shape.side, shape.side, generator=generator)
    results = []
    for dtype in (torch.float32, torch.float64):
        network = module.to(dtype=dtype, memory_format=torch.channels_last)
        network.zero_grad()
        given = images.to(dtype).to(memory_format=torch.channels_last).requires_grad_()
        output = network(given)
        output.backward(torch.cos(torch.arange(output.numel(), dtype=dtype)).view(output.shape))
        results.append((output.detach(), given.grad, network.weight.grad))
    pairs = zip(*results, strict=True)
    return max(
        float((single.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30)) for single, exact in pairs
    )


def check_here() -> None:
    """Read shapes as JSON lines from standard input; print a JSON line before and after the check of each shape."""
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps({"started": True}), flush=True)
        print(json.dumps({"error": error_of(Shape(**json.loads(line)))}), flush=True)


def check(shapes: list[Shape]) -> Iterator[tuple[Shape, str]]:
    """Yield each faulty shape with its fault; start a fresh child process after each crash."""
    left = list(shapes)
    while left:
        child = subprocess.Popen(
            [sys.executable, __file__, "--child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdin is not None
        assert child.stdout is not None
        for number, shape in enumerate(left, 1):
            try:
                child.stdin.write(json.dumps(asdict(shape)) + "\n")
                child.stdin.flush()
                child.stdout.readline()
                answer = child.stdout.readline()
            except BrokenPipeError:
                answer = ""
            if not answer:
                yield shape, f"crashes the process (exit status {child.wait(HANG_SECONDS)})"
                left = left[number:]
                break
            error = json.loads(answer)["error"]
            if not error <= TOLERANCE:
                yield shape, f"has a relative error of {error:.2g}"
        else:
            child.stdin.close()
            child.wait(HANG_SECONDS)
            return


def main() -> int:
    """Check all shapes and print the faulty ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="check only every Nth shape; default: 1")
    options = parser.parse_args()
    if options.child:
        check_here()
        return 0
    shapes = all_shapes()[:: options.every]
    faults = 0
    for shape, fault in check(shapes):
        faults += 1
        print(shape, fault, flush=True)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "none")
    print(f"{len(shapes)} shapes, instruction set limit {limit}: {faults} faulty")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
