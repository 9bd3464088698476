"""Build the network of an architecture in any space."""

from __future__ import annotations

from torch import nn

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Task
from eatnas_db.domain.space_definition import SpaceDefinition
from eatnas_db.plugins import Plugin


def build(architecture: Architecture, space: SpaceDefinition, task: Task) -> nn.Module:
    """Return the network of `architecture`; its weights are unset until `network.initialize`."""
    network: nn.Module = Plugin(space.network, space.network).load()(architecture, space, task)
    return network
