"""What a child takes over of its parent's weights. Each rule, and why it is so: docs/inheritance.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Macro, Task
from eatnas_training.network import Layer, Network, build

NEW: Final = -1
"""In an origin: this channel of the child continues none of the parent's."""
FAINT: Final = 0.01
"""The last gamma of a layer that is appended to a SepConv block with skip."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that `network.build` makes a network of."""

    architecture: Architecture
    macro: Macro
    task: Task


@dataclass(frozen=True, slots=True)
class Inheritance:
    """The share of the child's parameters that are copies of the parent's, by elements.

    `exact`: in eval mode the child gives its parent's logits, but for rounding. `fresh_blocks`: the blocks
    (from 1) of which nothing was taken.
    """

    share: float
    exact: bool
    fresh_blocks: tuple[int, ...]


def inherit(parent_state: Mapping[str, Tensor], parent: Plan, model: Network, child: Plan) -> Inheritance:
    """Write into `model`, the freshly initialised network of `child`, what fits of the parent's weights.

    Draws nothing: what is new keeps its initial weights. Raises `RuntimeError` when `parent_state` is not the
    state of the parent's network, `ValueError` when the two have different numbers of blocks.
    """
    with torch.device("meta"):
        source = build(parent.architecture, parent.macro, parent.task)
    source.load_state_dict(parent_state, assign=True)
    with torch.no_grad():
        return _inherit(source, parent, model, child)


def _inherit(source: Network, parent: Plan, model: Network, child: Plan) -> Inheritance:
    old, new = _parts(source, parent.architecture), _parts(model, child.architecture)
    strides = [(macro.stem_stride, macro.strides) for macro in (parent.macro, child.macro)]
    heir = _Heir(exact=strides[0] == strides[1] and parent.task == child.task)

    old_moments = _activated(old.stem.norm)
    channels = heir.origin(old_moments.var * _read(old.blocks[0][0]), new.stem.channels)
    if parent.task.channels == child.task.channels:
        heir.take(old.stem, new.stem, channels, torch.arange(child.task.channels))
    moments = _activated(new.stem.norm)

    fresh = []
    reads_after = [*(_read(block[0]) for block in old.blocks[1:]), _columns(old.head.conv)]
    for number, (before, after, read) in enumerate(zip(old.blocks, new.blocks, reads_after, strict=True), 1):
        inputs = channels
        for layer in before:
            old_moments = _after(layer, old_moments)
        # An identity adds channels to themselves, so both its ends continue the same ones.
        if not (before[0].identity and after[0].identity):
            importance = old_moments.var * sum(map(_read, before[1:]), read)
            channels = heir.origin(importance, after[-1].last.channels)
        if before[0].separable == after[0].separable:
            heir.take_block(before, after, inputs, channels, moments)
        else:
            heir.exact = False
            fresh.append(number)
        for layer in after:
            moments = _after(layer, moments)

    head = heir.origin(_activated(old.head.norm).var * _columns(old.classifier), new.head.channels)
    heir.take(old.head, new.head, head, channels)
    if parent.task.classes == child.task.classes:
        heir.take_classifier(old.classifier, new.classifier, head)
    share = heir.taken / sum(parameter.numel() for parameter in model.parameters())
    return Inheritance(share, heir.exact, tuple(fresh))


@dataclass(slots=True)
class _Heir:
    """Copies from one network to another, and keeps account of it."""

    exact: bool
    taken: int = 0

    def origin(self, importance: Tensor, count: int) -> Tensor:
        """Which of the parent's channels each of the child's `count` channels continues: int64 `[count]`."""
        known = len(importance)
        if count >= known:
            return torch.cat([torch.arange(known), torch.full((count - known,), NEW)])
        self.exact = False
        return importance.argsort(descending=True, stable=True)[:count].sort().values

    def take(self, old: _Normed, new: _Normed, outputs: Tensor, inputs: Tensor) -> None:
        """A convolution and its batch-norm. To what is known new inputs add nothing; what is new stays as it is."""
        size, old_size = new.conv.kernel_size[0], old.conv.kernel_size[0]
        self.exact &= size >= old_size
        window, old_window = _centre(size, old_size), _centre(old_size, size)
        rows, columns = _known(outputs), _known(inputs)
        copied = old.conv.weight[outputs[rows]][:, inputs[columns], old_window, old_window]
        new.conv.weight[rows] = 0
        new.conv.weight[rows[:, None], columns, window, window] = copied
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(new.norm, name)[rows] = getattr(old.norm, name)[outputs[rows]]
        self.taken += copied.numel() + 2 * len(rows)

    def take_depthwise(self, old: _Normed, new: _Normed, channels: Tensor) -> None:
        """A depthwise convolution (its weights are `[channels, 1, k, k]`) and its batch-norm."""
        self.take(old, new, channels, torch.zeros(1, dtype=torch.int64))

    def take_classifier(self, old: nn.Linear, new: nn.Linear, inputs: Tensor) -> None:
        """All classes; new inputs add nothing."""
        columns = _known(inputs)
        new.weight.zero_()
        new.weight[:, columns] = old.weight[:, inputs[columns]]
        new.bias.copy_(old.bias)
        self.taken += len(columns) * new.out_features + new.out_features

    def take_block(
        self, old: list[_Layer], new: list[_Layer], inputs: Tensor, outputs: Tensor, moments: _Moments
    ) -> None:
        """The layers that both have, first to last; further ones of the child start by doing nothing."""
        self.exact &= len(new) >= len(old)
        for before, after in zip(old, new, strict=False):
            self.take_body(before, after, inputs, outputs)
            self.take_shortcut(before, after, inputs, outputs, moments)
            inputs, moments = outputs, _after(after, moments)
        for layer in new[len(old) :]:
            if not layer.identity:
                _do_nothing(layer, moments)
            elif layer.separable:
                layer.last.norm.weight.fill_(FAINT)
                self.exact = False
            else:
                layer.last.norm.weight.zero_()
            moments = _after(layer, moments)

    def take_body(self, old: _Layer, new: _Layer, inputs: Tensor, outputs: Tensor) -> None:
        """Everything of a layer but its shortcut."""
        if new.separable:
            self.take_depthwise(old.body[0], new.body[0], inputs)
            self.take(old.body[1], new.body[1], outputs, inputs)
            return
        importance = _activated(old.body[1].norm).var * _columns(old.body[2].conv)
        hidden = self.origin(importance, new.body[1].channels)
        self.take(old.body[0], new.body[0], hidden, inputs)
        self.take_depthwise(old.body[1], new.body[1], hidden)
        self.take(old.body[2], new.body[2], outputs, hidden)

    def take_shortcut(self, old: _Layer, new: _Layer, inputs: Tensor, outputs: Tensor, moments: _Moments) -> None:
        """A bypass goes on as the bypass or the identity that was there, or starts at zero."""
        if not new.bypass:
            self.exact &= new.identity == old.identity and not old.bypass
        elif old.bypass:
            self.take(old.bypass, new.bypass, outputs, inputs)
        elif old.identity:
            rows = _known(outputs)
            same = (outputs[rows, None] == inputs).to(moments.mean)
            new.bypass.conv.weight[rows] = same[:, :, None, None]
            _let_pass(new.bypass.norm, rows, _Moments(same @ moments.mean, same @ moments.var))
        else:
            new.bypass.norm.weight.zero_()


class _Normed(NamedTuple):
    """A convolution and the batch-norm after it."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d

    @property
    def channels(self) -> int:
        return self.norm.num_features


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer taken apart: SepConv's two or MBConv's three convolutions, and its shortcut."""

    body: list[_Normed]
    identity: bool = False
    bypass: _Normed | None = None

    @property
    def separable(self) -> bool:
        return len(self.body) == 2

    @property
    def last(self) -> _Normed:
        return self.body[-1]


@dataclass(frozen=True, slots=True)
class _Parts:
    stem: _Normed
    blocks: list[list[_Layer]]
    head: _Normed
    classifier: nn.Linear


def _parts(model: Network, architecture: Architecture) -> _Parts:
    modules = list(model.features)
    layers = map(_layer, modules[3:-3])
    blocks = [list(islice(layers, block.depth)) for block in architecture]
    (stem,), (head,) = _normed(modules[:3]), _normed(modules[-3:])
    return _Parts(stem, blocks, head, model.classifier)


def _layer(module: nn.Module) -> _Layer:
    if not isinstance(module, Layer):
        return _Layer(_normed(module.children()))
    body = _normed(module.body.children())
    if isinstance(module.shortcut, nn.Identity):
        return _Layer(body, identity=True)
    return _Layer(body, bypass=_normed(module.shortcut.children())[0])


def _normed(modules: Iterable[nn.Module]) -> list[_Normed]:
    modules = list(modules)
    convolutions = (module for module in modules if isinstance(module, nn.Conv2d))
    norms = (module for module in modules if isinstance(module, nn.BatchNorm2d))
    return [_Normed(*pair) for pair in zip(convolutions, norms, strict=True)]


class _Moments(NamedTuple):
    """Each channel's mean and variance over images and pixels, as the batch-norms have set them."""

    mean: Tensor
    var: Tensor

    @property
    def channels(self) -> int:
        return len(self.mean)

    def rectified(self) -> _Moments:
        """Behind a ReLU, had the channel a normal distribution."""
        deviation = self.var.sqrt().clamp(min=1e-6)
        z = self.mean / deviation
        below = torch.special.ndtr(z)
        density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
        mean = self.mean * below + deviation * density
        square = (self.mean.square() + self.var) * below + self.mean * deviation * density
        return _Moments(mean, (square - mean.square()).clamp(min=0))

    def plus(self, other: _Moments) -> _Moments:
        """Of the sum, were both independent."""
        return _Moments(self.mean + other.mean, self.var + other.var)


def _moments(norm: nn.BatchNorm2d) -> _Moments:
    return _Moments(norm.bias.clone(), norm.weight.square())


def _activated(norm: nn.BatchNorm2d) -> _Moments:
    return _moments(norm).rectified()


def _after(layer: _Layer, inputs: _Moments) -> _Moments:
    body = _activated(layer.last.norm) if layer.separable else _moments(layer.last.norm)
    if layer.identity:
        return body.plus(inputs)
    return body.plus(_moments(layer.bypass.norm)) if layer.bypass else body


def _read(layer: _Layer) -> Tensor:
    """How much a layer makes of each of its inputs: the squares of the weights it has for it, `[inputs]`."""
    if layer.separable:
        read = layer.body[0].norm.weight.square() * _columns(layer.body[1].conv)
    else:
        read = _columns(layer.body[0].conv)
    return read + _columns(layer.bypass.conv) if layer.bypass else read


def _columns(module: nn.Conv2d | nn.Linear) -> Tensor:
    """The sum of the squares of all weights that each input meets: `[inputs]`."""
    return module.weight.square().transpose(0, 1).flatten(1).sum(1)


def _known(origin: Tensor) -> Tensor:
    return (origin != NEW).nonzero().flatten()


def _centre(size: int, other: int) -> slice:
    """The part of `size` pixels that a centred kernel of `other` pixels covers."""
    margin = max(0, size - other) // 2
    return slice(margin, size - margin)


def _do_nothing(layer: _Layer, moments: _Moments) -> None:
    """Make a layer without shortcut hand on its inputs, of these moments; SepConv's are never negative."""
    *expand, depthwise, project = layer.body
    every = torch.arange(moments.channels)
    unit = torch.eye(moments.channels).to(moments.mean)[:, :, None, None]
    passing, inside, outwards = every, moments, unit
    if expand:
        # Two ReLUs lie between input and output: x comes through them as max(x, 0) - max(-x, 0).
        passing, outwards = torch.arange(2 * moments.channels), torch.cat([unit, -unit], 1)
        signed = _Moments(torch.cat([moments.mean, -moments.mean]), moments.var.repeat(2))
        expand[0].conv.weight[passing] = outwards.transpose(0, 1)
        _let_pass(expand[0].norm, passing, signed)
        inside = signed.rectified()
    middle = depthwise.conv.kernel_size[0] // 2
    depthwise.conv.weight[passing] = 0
    depthwise.conv.weight[passing, :, middle, middle] = 1
    _let_pass(depthwise.norm, passing, inside)
    project.conv.weight.zero_()
    project.conv.weight[:, passing] = outwards
    _let_pass(project.norm, every, moments)


def _let_pass(norm: nn.BatchNorm2d, channels: Tensor, moments: _Moments) -> None:
    """Make a batch-norm the identity: exactly in eval mode, and in training if the moments are right."""
    gamma = (moments.var + norm.eps).sqrt()
    passing = {"weight": gamma, "bias": moments.mean, "running_mean": moments.mean, "running_var": moments.var}
    for name, values in passing.items():
        getattr(norm, name)[channels] = values
