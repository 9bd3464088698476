"""Open an exported file of any format: its description, and a function from images to logits."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from eatnas_db.errors import DataError, NotFoundError
from eatnas_training.error_messages import first_line, unreadable
from eatnas_training.export.checkpoint_network import restore_network
from eatnas_training.export.description import ModelDescription
from eatnas_training.export.formats import INPUT, PT2_DESCRIPTION, SUFFIXES, missing_onnx

Forward = Callable[[Tensor], Tensor]
"""A function from normalized images, float32 `[N, C, side, side]`, to logits `[N, classes]`."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """An opened file. `forward` computes on the CPU."""

    description: ModelDescription
    forward: Forward


def open_model_file(path: Path) -> ModelFile:
    """Open an exported file; its suffix decides the format.

    Open only files that you trust: a `.py` file is executed, and a `.pt2` file may run code too. Raises `DataError`,
    and `NotFoundError` if the file does not exist.
    """
    readers: dict[str, Callable[[Path], ModelFile]] = {
        ".safetensors": _open_safetensors,
        ".pt2": _open_pt2,
        ".onnx": _open_onnx,
        ".py": _open_module,
    }
    require_file(path)
    if path.suffix not in readers:
        raise DataError(f"{path} has an unknown suffix; an exported model ends in {', '.join(SUFFIXES.values())}")
    with errors_of(path):
        opened = readers[path.suffix](path)
    opened.description.require_consistent(path)

    def forward(images: Tensor) -> Tensor:
        with errors_of(path):
            return opened.forward(images)

    return ModelFile(opened.description, forward)


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Raise `DataError`, which names the file, for any exception in this block.

    The readers of file formats can raise any exception on a damaged file.
    """
    try:
        yield
    except (DataError, NotFoundError, MemoryError):
        raise
    except OSError as error:
        raise unreadable(error, path) from error
    except Exception as error:
        raise DataError(f"{path} cannot be read as a model ({first_line(error)}); export it again") from error


def require_file(path: Path) -> None:
    """Raise `NotFoundError` unless `path` is a file."""
    if not path.is_file():
        raise NotFoundError(f"no file {path}; `eatnas-db export` writes models")


def read_safetensors(path: Path) -> tuple[nn.Module, ModelDescription]:
    """Return the network and the description of a safetensors file. Raises `DataError`."""
    from safetensors import SafetensorError, safe_open

    with errors_of(path):
        try:
            with safe_open(path, framework="pt") as file:
                description = ModelDescription.from_metadata(path, file.metadata())
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise DataError(
                f"{path} is not a complete safetensors file ({first_line(error)}); export it again"
            ) from error
        network = restore_network(
            state,
            architecture=description.architecture,
            macro=description.network_macro,
            task=description.network_task,
        )
    return network, description


def read_pt2(path: Path) -> tuple[torch.nn.Module, ModelDescription]:
    """Return the module and the description of a `.pt2` file. Raises `DataError`."""
    extra_files: dict[str, Any] = {PT2_DESCRIPTION: ""}
    with errors_of(path):
        program = torch.export.load(path, extra_files=extra_files)
        text = extra_files[PT2_DESCRIPTION]
        return program.module(), ModelDescription.from_metadata(path, json.loads(text) if text else None)


def _open_safetensors(path: Path) -> ModelFile:
    network, description = read_safetensors(path)
    return ModelFile(description, network)


def _open_pt2(path: Path) -> ModelFile:
    module, description = read_pt2(path)
    return ModelFile(description, module)


def _open_onnx(path: Path) -> ModelFile:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_onnx(error) from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map

    def forward(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(logits)

    return ModelFile(ModelDescription.from_metadata(path, metadata), forward)


_MODULE_NAME: Final = "exported_model"


def _open_module(path: Path) -> ModelFile:
    weights = path.with_suffix(SUFFIXES["safetensors"])
    require_file(weights)
    spec = importlib.util.spec_from_file_location(_MODULE_NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network, _ = module.load()
    return ModelFile(read_safetensors(weights)[1], network)
