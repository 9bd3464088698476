"""Fused batch norm and ReLU for training in Triton, forward and backward. Importing this module requires Triton.

The images are channels-last, so a kernel sees a matrix of positions (image, row, column) by channels. Sums over the
positions take two stages with a fixed order: each program of the first kernel adds up a part of the positions, and the
second kernel adds up the parts. The number of parts depends on the shape alone. Therefore, two runs have the same bits,
and a CUDA graph can capture the launches. The backward pass derives the mask of the ReLU from the output, which the
next layer keeps anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

TILE_VALUES = 2048
"""The number of values of each tensor that a program holds at a time."""
CHANNEL_BLOCKS = (64, 32, 16)
"""The possible numbers of channels of a tile. The number with the least padding is used, the largest in a tie."""
MAX_PARTS = 512
FINISH_PARTS, FINISH_CHANNELS = 64, 16
"""The parts and the channels of a tile of the second stage."""


@dataclass(frozen=True)
class Tiling:
    """The division of `positions` times `channels` values among programs. It depends on the shape alone."""

    positions: int
    channels: int

    @property
    def block_channels(self) -> int:
        """Return the number of channels in a tile."""
        return min(CHANNEL_BLOCKS, key=lambda block: (-(-self.channels // block) * block, -block))

    @property
    def block_positions(self) -> int:
        """Return the number of positions in a tile."""
        return TILE_VALUES // self.block_channels

    @property
    def tiles(self) -> int:
        """Return the number of tiles in one block of channels."""
        return -(-self.positions // self.block_positions)

    @property
    def part_positions(self) -> int:
        """Return the number of positions in a part, a multiple of those in a tile."""
        return -(-self.tiles // MAX_PARTS) * self.block_positions

    @property
    def parts(self) -> int:
        """Return the number of parts."""
        return -(-self.positions // self.part_positions)

    @property
    def channel_blocks(self) -> int:
        """Return the number of blocks of channels."""
        return -(-self.channels // self.block_channels)

    @property
    def blocks(self) -> dict[str, int]:
        """Return the sizes of a tile, as arguments of the kernels."""
        return {"block_positions": self.block_positions, "block_channels": self.block_channels}

    @property
    def finish_grid(self) -> tuple[int]:
        """Return the grid of the second stage."""
        return (-(-self.channels // FINISH_CHANNELS),)


FINISH_BLOCKS = {"block_parts": FINISH_PARTS, "block_channels": FINISH_CHANNELS}


@triton.jit(do_not_specialize=["positions", "part_positions"])
def sum_values(
    values, sums, positions, channels, part_positions, block_positions: tl.constexpr, block_channels: tl.constexpr
):
    """Store the mean and the sum of squared deviations of the values in a part, by Welford's method."""
    part = tl.program_id(0)
    channel = tl.program_id(1) * block_channels + tl.arange(0, block_channels)[None, :]
    values += part.to(tl.int64) * part_positions * channels
    count = tl.zeros([block_positions, 1], tl.float32)
    mean = tl.zeros([block_positions, block_channels], tl.float32)
    squares = tl.zeros([block_positions, block_channels], tl.float32)
    left = positions - part * part_positions
    for start in range(0, part_positions, block_positions):
        position = start + tl.arange(0, block_positions)[:, None]
        known = position < left
        value = tl.load(values + position * channels + channel, mask=known & (channel < channels), other=0.0)
        value = value.to(tl.float32)
        count += known.to(tl.float32)
        deviation = tl.where(known, value - mean, 0.0)
        mean += deviation * (1.0 / tl.maximum(count, 1.0))  # divides once for each position, and not for each value
        squares += deviation * (value - mean)
    total_mean = (tl.sum(mean * count, 0) / tl.sum(count, 0))[None, :]
    deviation = mean - total_mean
    total_squares = tl.sum(squares + count * deviation * deviation, 0)[None, :]
    sums += part * channels + channel
    tl.store(sums, total_mean, mask=channel < channels)
    tl.store(sums + tl.num_programs(0) * channels, total_squares, mask=channel < channels)


@triton.jit(do_not_specialize=["positions", "part_positions", "parts"])
def finish_statistics(
    sums,
    statistics,
    running_mean,
    running_variance,
    positions,
    channels,
    part_positions,
    parts,
    momentum,
    epsilon,
    block_parts: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Store the mean and the inverse standard deviation of all positions, and update the running statistics."""
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)[None, :]
    known_channel = channel < channels
    total = tl.zeros([block_parts, block_channels], tl.float32)
    for start in range(0, parts, block_parts):
        part = start + tl.arange(0, block_parts)[:, None]
        count = tl.minimum(positions - part * part_positions, part_positions).to(tl.float32)
        known = (part < parts) & known_channel
        total += count * tl.load(sums + part * channels + channel, mask=known, other=0.0)
    mean = (tl.sum(total, 0) / positions)[None, :]
    total = tl.zeros([block_parts, block_channels], tl.float32)
    for start in range(0, parts, block_parts):
        part = start + tl.arange(0, block_parts)[:, None]
        count = tl.minimum(positions - part * part_positions, part_positions).to(tl.float32)
        known = (part < parts) & known_channel
        deviation = tl.load(sums + part * channels + channel, mask=known, other=0.0) - mean
        squares = tl.load(sums + (parts + part) * channels + channel, mask=known, other=0.0)
        total += tl.where(known, squares + count * deviation * deviation, 0.0)
    squares = tl.sum(total, 0)[None, :]
    tl.store(statistics + channel, mean, mask=known_channel)
    tl.store(statistics + channels + channel, 1.0 / tl.sqrt_rn(squares / positions + epsilon), mask=known_channel)
    old = tl.load(running_mean + channel, mask=known_channel, other=0.0)
    tl.store(running_mean + channel, (1.0 - momentum) * old + momentum * mean, mask=known_channel)
    variance = squares / (positions - 1)
    old = tl.load(running_variance + channel, mask=known_channel, other=0.0)
    tl.store(running_variance + channel, (1.0 - momentum) * old + momentum * variance, mask=known_channel)


@triton.jit(do_not_specialize=["positions"])
def normalize(
    values,
    outputs,
    statistics,
    weight,
    bias,
    positions,
    channels,
    block_positions: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Store the normalized values after the ReLU. A NaN stays a NaN."""
    first = tl.program_id(0) * block_positions
    channel = tl.program_id(1) * block_channels + tl.arange(0, block_channels)[None, :]
    position = tl.arange(0, block_positions)[:, None]
    known_channel = channel < channels
    known = (position < positions - first) & known_channel
    mean = tl.load(statistics + channel, mask=known_channel, other=0.0)
    inverse = tl.load(statistics + channels + channel, mask=known_channel, other=0.0)
    scale = inverse * tl.load(weight + channel, mask=known_channel, other=0.0)
    shift = tl.load(bias + channel, mask=known_channel, other=0.0)
    base, offset = first.to(tl.int64) * channels, position * channels + channel
    value = tl.load(values + base + offset, mask=known, other=0.0).to(tl.float32)
    result = (value - mean) * scale + shift
    tl.store(outputs + base + offset, tl.where(result <= 0, 0.0, result), mask=known)


@triton.jit(do_not_specialize=["positions", "part_positions"])
def sum_gradients(
    gradients,
    values,
    outputs,
    statistics,
    sums,
    positions,
    channels,
    part_positions,
    block_positions: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Store the sum of a part's gradients, and the sum of their products with the deviations from the mean."""
    part = tl.program_id(0)
    channel = tl.program_id(1) * block_channels + tl.arange(0, block_channels)[None, :]
    base = part.to(tl.int64) * part_positions * channels
    mean = tl.load(statistics + channel, mask=channel < channels, other=0.0)
    total = tl.zeros([block_positions, block_channels], tl.float32)
    product = tl.zeros([block_positions, block_channels], tl.float32)
    left = positions - part * part_positions
    for start in range(0, part_positions, block_positions):
        position = start + tl.arange(0, block_positions)[:, None]
        known = (position < left) & (channel < channels)
        offset = base + position * channels + channel
        gradient = tl.load(gradients + offset, mask=known, other=0.0).to(tl.float32)
        value = tl.load(values + offset, mask=known, other=0.0).to(tl.float32)
        output = tl.load(outputs + offset, mask=known, other=0.0).to(tl.float32)
        gradient = tl.where(output <= 0, 0.0, gradient)
        total += gradient
        product += gradient * (value - mean)
    sums += part * channels + channel
    tl.store(sums, tl.sum(total, 0)[None, :], mask=channel < channels)
    tl.store(sums + tl.num_programs(0) * channels, tl.sum(product, 0)[None, :], mask=channel < channels)


@triton.jit(do_not_specialize=["parts"])
def finish_gradients(
    sums,
    statistics,
    weight_gradient,
    bias_gradient,
    channels,
    parts,
    block_parts: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Store the gradients of the weight and of the bias."""
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)[None, :]
    known_channel = channel < channels
    total = tl.zeros([block_parts, block_channels], tl.float32)
    product = tl.zeros([block_parts, block_channels], tl.float32)
    for start in range(0, parts, block_parts):
        part = start + tl.arange(0, block_parts)[:, None]
        known = (part < parts) & known_channel
        total += tl.load(sums + part * channels + channel, mask=known, other=0.0)
        product += tl.load(sums + (parts + part) * channels + channel, mask=known, other=0.0)
    inverse = tl.load(statistics + channels + channel, mask=known_channel, other=0.0)
    tl.store(weight_gradient + channel, tl.sum(product, 0)[None, :] * inverse, mask=known_channel)
    tl.store(bias_gradient + channel, tl.sum(total, 0)[None, :], mask=known_channel)


@triton.jit(do_not_specialize=["positions"])
def normalize_backward(
    gradients,
    values,
    outputs,
    statistics,
    weight,
    weight_gradient,
    bias_gradient,
    results,
    positions,
    channels,
    block_positions: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Store the gradients of the values."""
    first = tl.program_id(0) * block_positions
    channel = tl.program_id(1) * block_channels + tl.arange(0, block_channels)[None, :]
    position = tl.arange(0, block_positions)[:, None]
    known_channel = channel < channels
    known = (position < positions - first) & known_channel
    mean = tl.load(statistics + channel, mask=known_channel, other=0.0)
    inverse = tl.load(statistics + channels + channel, mask=known_channel, other=0.0)
    scale = inverse * tl.load(weight + channel, mask=known_channel, other=0.0)
    slope = inverse * tl.load(weight_gradient + channel, mask=known_channel, other=0.0) / positions
    gradient_mean = tl.load(bias_gradient + channel, mask=known_channel, other=0.0) / positions
    base, offset = first.to(tl.int64) * channels, position * channels + channel
    gradient = tl.load(gradients + base + offset, mask=known, other=0.0).to(tl.float32)
    value = tl.load(values + base + offset, mask=known, other=0.0).to(tl.float32)
    output = tl.load(outputs + base + offset, mask=known, other=0.0).to(tl.float32)
    gradient = tl.where(output <= 0, 0.0, gradient)
    tl.store(results + base + offset, (gradient - gradient_mean - (value - mean) * slope) * scale, mask=known)


class NormReLU(torch.autograd.Function):
    """Batch norm with the statistics of the batch, followed by ReLU."""

    @staticmethod
    def forward(
        context: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_variance: Tensor,
        momentum: float,
        epsilon: float,
    ) -> Tensor:
        """Return the images after the ReLU, and update the running statistics."""
        images = images.contiguous(memory_format=torch.channels_last)
        tiling = Tiling(images.numel() // images.shape[1], images.shape[1])
        shape, part = (tiling.positions, tiling.channels), tiling.part_positions
        sums = torch.empty(2, tiling.parts, tiling.channels, device=images.device)
        statistics = torch.empty(2, tiling.channels, device=images.device)
        outputs = torch.empty_like(images)
        with torch.cuda.device_of(images):
            sum_values[tiling.parts, tiling.channel_blocks](images, sums, *shape, part, **tiling.blocks)
            finish_statistics[tiling.finish_grid](
                sums,
                statistics,
                running_mean,
                running_variance,
                *shape,
                part,
                tiling.parts,
                momentum,
                epsilon,
                **FINISH_BLOCKS,
            )
            normalize[tiling.tiles, tiling.channel_blocks](
                images, outputs, statistics, weight, bias, *shape, **tiling.blocks
            )
        context.save_for_backward(images, outputs, weight, statistics)
        context.tiling = tiling
        return outputs

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the images, the weight and the bias."""
        images, outputs, weight, statistics = context.saved_tensors
        tiling: Tiling = context.tiling
        shape = tiling.positions, tiling.channels
        gradients = gradients.contiguous(memory_format=torch.channels_last)
        sums = torch.empty(2, tiling.parts, tiling.channels, device=images.device)
        of_weight, of_bias = torch.empty_like(weight), torch.empty_like(weight)
        results = torch.empty_like(images)
        with torch.cuda.device_of(images):
            sum_gradients[tiling.parts, tiling.channel_blocks](
                gradients, images, outputs, statistics, sums, *shape, tiling.part_positions, **tiling.blocks
            )
            finish_gradients[tiling.finish_grid](
                sums, statistics, of_weight, of_bias, tiling.channels, tiling.parts, **FINISH_BLOCKS
            )
            normalize_backward[tiling.tiles, tiling.channel_blocks](
                gradients, images, outputs, statistics, weight, of_weight, of_bias, results, *shape, **tiling.blocks
            )
        return results, of_weight, of_bias, None, None, None, None


class FusedNormReLU(nn.BatchNorm2d):
    """`nn.BatchNorm2d` and `nn.ReLU` in one module, with the float32 weights and statistics of `nn.BatchNorm2d`."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> FusedNormReLU:
        """Return a module that shares the weights and statistics of `norm`."""
        fused = cls(norm.num_features, norm.eps, norm.momentum, device="meta")
        fused._parameters, fused._buffers = norm._parameters, norm._buffers
        return fused

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalized images after the ReLU."""
        if not self.training:
            return super().forward(images).relu_()
        if images.numel() == images.shape[1]:
            raise ValueError(f"batch norm needs more than one value for each channel, not {tuple(images.shape)}")
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        state = self.weight, self.bias, self.running_mean, self.running_var
        result: Tensor = NormReLU.apply(images, *state, self.momentum, self.eps)
        return result


def fuse(model: nn.Module) -> int:
    """Replace each batch norm and the ReLU after it with a fused module. Return the number of fused modules."""
    fused = 0
    for parts in [part for part in model.modules() if isinstance(part, nn.Sequential)]:
        for place in range(len(parts) - 1):
            norm = parts[place]
            if type(norm) is nn.BatchNorm2d and type(parts[place + 1]) is nn.ReLU:
                parts[place], parts[place + 1] = FusedNormReLU.of(norm), nn.Identity()
                fused += 1
    return fused
