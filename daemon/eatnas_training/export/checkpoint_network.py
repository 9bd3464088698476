"""Build the network of a trained model from its checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from eatnas_db.checkpoint_files import read_checkpoint
from eatnas_db.domain.macro import Task
from eatnas_db.domain.space_definition import SpaceDefinition
from eatnas_db.errors import DataError
from eatnas_training import checkpoint
from eatnas_training.building import build
from eatnas_training.error_messages import first_line


def read_network(path: Path, digest: str, *, architecture: str, macro: SpaceDefinition, task: Task) -> nn.Module:
    """Return the network of a checkpoint, in evaluation mode and on the CPU.

    Raises `DataError` if the file is missing or damaged, or if its digest is not `digest`.
    """
    try:
        content = read_checkpoint(path)
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("the file does not have the recorded digest")
        saved = checkpoint.unpack(content)
        state = saved.get("average") or saved["model"]
        return restore_network(state, architecture=architecture, macro=macro, task=task)
    except OSError as error:
        raise DataError(f"the weights in {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the weights in {path} cannot be used ({first_line(error)}); restore the file from a backup, "
            "or train the candidate again"
        ) from error


def restore_network(state: Mapping[str, Tensor], *, architecture: str, macro: SpaceDefinition, task: Task) -> nn.Module:
    """Return a network in evaluation mode with the weights `state`. Raises `ValueError` if the weights do not fit the
    network.
    """
    network = build(macro.parse(architecture), macro, task)
    try:
        network.load_state_dict(dict[str, Any](state))
    except RuntimeError as error:
        raise ValueError(f"they do not fit {architecture}") from error
    return network.eval()
