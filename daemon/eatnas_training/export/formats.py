"""Convert a network and its description to the content of a file, with one function for each format."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn

from eatnas_db.errors import DataError
from eatnas_training.error_messages import first_line
from eatnas_training.export.description import ModelDescription
from eatnas_training.export.python_module import write_module

SUFFIXES: Final = {"safetensors": ".safetensors", "pt2": ".pt2", "onnx": ".onnx", "python": ".py"}
PT2_DESCRIPTION: Final = "eatnas.json"
"""The extra file of a `.pt2` archive that holds the description."""
INPUT: Final = "images"
OUTPUT: Final = "logits"


def write_safetensors(network: nn.Module, description: ModelDescription) -> bytes:
    """Return a safetensors file that holds the weights under their names in the state dict."""
    from safetensors.torch import save

    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return save(state, description.to_metadata())


def write_pt2(network: nn.Module, description: ModelDescription) -> bytes:
    """Export the network with `torch.export` and a dynamic batch size, and return the archive."""
    buffer = io.BytesIO()
    extra_files = {PT2_DESCRIPTION: json.dumps(description.to_metadata())}
    torch.export.save(_export_program(network, description), buffer, extra_files=extra_files)
    return buffer.getvalue()


def write_onnx(network: nn.Module, description: ModelDescription) -> bytes:
    """Export the network with torch's ONNX exporter and a dynamic batch size, and return the ONNX file."""
    program = torch.onnx.export(
        _export_program(network, description),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    model: Any = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # these properties contain stack traces with paths of this machine
    for key, value in description.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


def write_python(network: nn.Module, description: ModelDescription) -> bytes:
    """Return the source of a Python module that does not depend on eatnas-db."""
    return write_module(description).encode()


Writer = Callable[[nn.Module, ModelDescription], bytes]
WRITERS: Final[dict[str, Writer]] = {
    "safetensors": write_safetensors,
    "pt2": write_pt2,
    "onnx": write_onnx,
    "python": write_python,
}


def require_packages(formats: list[str]) -> None:
    """Import the packages that the formats need. Raises `DataError`, which names the missing package."""
    if "onnx" not in formats:
        return
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_onnx(error) from error


def missing_onnx(error: ImportError) -> DataError:
    """Return the error for an ONNX package that cannot be imported."""
    return DataError(
        f"ONNX files need onnx, onnxscript and onnxruntime ({first_line(error)}); pip install 'eatnas-db[export]'"
    )


def _export_program(network: nn.Module, description: ModelDescription) -> torch.export.ExportedProgram:
    task = description.network_task
    example = torch.zeros(2, task.channels, task.resolution, task.resolution)
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}})
