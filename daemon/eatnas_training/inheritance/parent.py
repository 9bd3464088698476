"""Read the parent's weights from its last checkpoint, or find the nearest ancestor with a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from eatnas_db.domain.macro import Task
from eatnas_db.spaces import read_space
from eatnas_protocol.messages import Assign
from eatnas_training import checkpoint
from eatnas_training.building import build
from eatnas_training.data.batches import LoadedData
from eatnas_training.failures import ParentMissingError
from eatnas_training.inheritance.transfer import NetworkSpec, inherit

COMPARED_IMAGES: Final = 256
"""The number of validation images on which the logits of parent and child are compared."""


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A network with its weights and batch-norm statistics after training."""

    spec: NetworkSpec
    weights: Mapping[str, Tensor]


def spec_of(assign: Assign) -> NetworkSpec:
    """Return the network of an assignment."""
    space = read_space(assign.macro)
    return NetworkSpec(space.from_code(assign.code), space, Task(**assign.task))


def find_nearest_ancestor(assign: Assign) -> tuple[TrainedNetwork | None, list[Assign]]:
    """Return the nearest ancestor with weights, and the assignments of the later ancestors that must be trained again,
    oldest first.

    The ancestor is None if all ancestors in the list must be trained again, the oldest of them from scratch. Raises
    `ParentMissingError` if this oldest ancestor cannot be trained from scratch, because it inherits weights.
    """
    missing: list[Assign] = []
    for number in reversed(range(len(assign.ancestors))):
        # Include the ancestor's own parent, which is part of the identity of its checkpoints.
        parents = assign.ancestors[max(0, number - 1) : number]
        ancestor = replace(Assign(**assign.ancestors[number]), ancestors=parents)
        weights = _final_weights(ancestor)
        if weights is not None:
            return TrainedNetwork(spec_of(ancestor), weights), missing
        missing.insert(0, ancestor)
    if missing[0].inherits:
        raise ParentMissingError(f"the weights of candidate {missing[-1].candidate} are missing or damaged")
    return None, missing


def inherit_from(
    parent: TrainedNetwork, model: nn.Module, assign: Assign, data: LoadedData
) -> tuple[float, float | None]:
    """Write the parent's weights into a newly initialized network. Return the inherited share and the logit distance.

    The distance is the root mean square difference of the logits of child and parent, in standard deviations of the
    parent's logits, over up to `COMPARED_IMAGES` validation images in eval mode. The distance is None if the tasks
    differ, if it is not finite, and for final models.
    """
    child = spec_of(assign)
    # Make the weights contiguous: weights from a file and from a training in this process may differ in memory layout,
    # which would change the order of sums and thereby the bits of the result.
    weights = {name: tensor.contiguous() for name, tensor in parent.weights.items()}
    inheritance = inherit(weights, parent.spec, model, child)
    if parent.spec.task != child.task or assign.final_model:  # a final model's held-out images are test images
        return inheritance.share, None
    source = build(parent.spec.architecture, parent.spec.macro, parent.spec.task)
    source.load_state_dict(weights)
    images, _ = data.held_out.between(0, min(COMPARED_IMAGES, len(data.held_out.labels)))
    before, after = (_logits(net, images.cpu()) for net in (source, model))
    distance = (after - before).square().mean().sqrt() / before.std().clamp(min=1e-12)
    return inheritance.share, float(distance) if distance.isfinite() else None


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    model.eval()
    with torch.inference_mode():
        logits: Tensor = model(images).double()
    model.train()
    return logits


def _final_weights(ancestor: Assign) -> dict[str, Tensor] | None:
    """Return the weights from the checkpoint after the last epoch, or None if there is no valid checkpoint."""
    weights: dict[str, Any] = {}

    def accept(content: bytes) -> None:
        saved = checkpoint.unpack(content)
        identity = json.loads(saved["identity"])
        epochs = ancestor.stop_after or ancestor.training["epochs"]
        expected = (epochs, ancestor.code, ancestor.seed, ancestor.split_batches)
        if (saved["epoch"], *(identity[key] for key in ("code", "seed", "split_batches"))) != expected:
            raise ValueError("it belongs to another network, seed or batch split, or is not from the last epoch")
        weights.update(saved["model"])

    checkpoint.resume(ancestor, accept)
    return weights or None
