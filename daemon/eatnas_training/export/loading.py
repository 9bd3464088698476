"""Load an exported file, or a candidate's checkpoint, as a torch module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from eatnas_db.errors import DataError
from eatnas_training.export.description import ModelDescription
from eatnas_training.export.exporting import ExportRequest, describe_model
from eatnas_training.export.features import StageFeatures
from eatnas_training.export.model_files import read_pt2, read_safetensors, require_file
from eatnas_training.export.preprocessing import ImageTransform

if TYPE_CHECKING:
    from eatnas_training.network import Network


class ExportedProgramNetwork(nn.Module):
    """The network of a `.pt2` file, which always computes as in evaluation mode and cannot be trained."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `[N, classes]`."""
        logits: Tensor = self.program(images)
        return logits

    def train(self, mode: bool = True) -> ExportedProgramNetwork:
        """Do nothing in evaluation mode; raise `DataError` otherwise."""
        if mode:
            raise DataError("a .pt2 file cannot be trained; load a safetensors file instead")
        return self


def load_model_file(path: Path, *, features_only: bool) -> nn.Module:
    """Return the network of a `.safetensors`, `.py` or `.pt2` file. Raises `DataError`."""
    require_file(path)
    if path.suffix == ".pt2" and not features_only:
        program, description = read_pt2(path)
        return _finish(ExportedProgramNetwork(program), description)
    if path.suffix == ".py":
        path = path.with_suffix(".safetensors")
        require_file(path)
    if path.suffix != ".safetensors":
        raise DataError(
            f"{path} holds no torch network{' with feature maps' if features_only else ''}; "
            "load the safetensors file of the model, which `eatnas-db export --format safetensors` writes"
        )
    return _of_network(*read_safetensors(path), features_only=features_only)


def load_checkpoint(request: Mapping[str, Any], *, features_only: bool) -> nn.Module:
    """Return the network of a candidate's checkpoint; `request` has the fields of an `ExportRequest`."""
    network, _, description = describe_model(ExportRequest(**request))
    return _of_network(network, description, features_only=features_only)


def _of_network(network: nn.Module, description: ModelDescription, *, features_only: bool) -> nn.Module:
    if not features_only:
        return _finish(network, description)
    macro = description.require_macro("features_only")
    architecture = macro.parse(description.architecture)
    return _finish(StageFeatures(cast("Network", network), architecture, macro), description)


def _finish(module: nn.Module, description: ModelDescription) -> nn.Module:
    """Set the attributes of a loaded model. Write them to `__dict__`, because the state dict would contain attributes
    that are registered as submodules.
    """
    module.__dict__["preprocess"] = ImageTransform(description.preprocessing)
    module.__dict__["classes"] = description.classes
    module.__dict__["description"] = description
    return module.eval().to(device=torch.device("cpu"))
