"""The weights that a candidate inherits: its parent's, from their file, or made again by the parent's own training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Macro, Task
from eatnas_protocol.messages import Assign
from eatnas_training import checkpoint, network
from eatnas_training.augment import Data
from eatnas_training.failures import ParentMissingError
from eatnas_training.inherit import Inheritance, Plan, inherit

COMPARED_IMAGES = 256


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A trained network: what it is, and its weights and batch-norm statistics."""

    plan: Plan
    weights: Mapping[str, Tensor]


def plan_of(assign: Assign) -> Plan:
    """The network of an assignment."""
    return Plan(Architecture.from_code(assign.code), Macro.from_json(assign.macro), Task(**assign.task))


def nearest(assign: Assign) -> tuple[Ancestor | None, list[Assign]]:
    """The nearest ancestor whose weights are kept, and the assignments to be trained again after it.

    None: all of them, the first from scratch. Raises `ParentMissingError` when that one inherits too.
    """
    again: list[Assign] = []
    for number in reversed(range(len(assign.heritage))):
        # With its own parent, which is part of what its checkpoints are known by.
        link = replace(Assign(**assign.heritage[number]), heritage=assign.heritage[max(0, number - 1) : number])
        weights = _kept(link)
        if weights is not None:
            return Ancestor(plan_of(link), weights), again
        again.insert(0, link)
    if again[0].inherits:
        raise ParentMissingError(f"the weights of candidate {again[-1].candidate} are gone or damaged")
    return None, again


def take_over(
    ancestor: Ancestor, model: network.Network, assign: Assign, data: Data
) -> tuple[Inheritance, float | None]:
    """Write into a fresh model what fits of an ancestor's weights; how far its logits are from the ancestor's then.

    In standard deviations of the ancestor's logits, over up to 256 validation images, in eval mode; None where
    the two have other tasks.
    """
    plan = plan_of(assign)
    # Whether they come from a file or from a training just now: sums in another order would give other bits.
    weights = {name: tensor.contiguous() for name, tensor in ancestor.weights.items()}
    inheritance = inherit(weights, ancestor.plan, model, plan)
    if ancestor.plan.task != plan.task:
        return inheritance, None
    source = network.build(ancestor.plan.architecture, ancestor.plan.macro, ancestor.plan.task)
    source.load_state_dict(weights)
    images, _ = data.held_out.between(0, min(COMPARED_IMAGES, len(data.held_out.labels)))
    before, after = (_logits(one, images.cpu()) for one in (source, model))
    return inheritance, float((after - before).square().mean().sqrt() / before.std().clamp(min=1e-12))


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    model.eval()
    with torch.inference_mode():
        logits: Tensor = model(images).double()
    model.train()
    return logits


def _kept(link: Assign) -> dict[str, Tensor] | None:
    found: dict[str, Any] = {}

    def accept(content: bytes) -> None:
        kept = checkpoint.unpack(content)
        identity = json.loads(kept["identity"])
        if (kept["epoch"], identity["code"], identity["seed"]) != (link.training["epochs"], link.code, link.seed):
            raise ValueError("it is not this candidate's last")
        found.update(kept["model"])

    checkpoint.resume(link, accept)
    return found or None
