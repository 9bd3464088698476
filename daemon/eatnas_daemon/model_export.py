"""Export trained models, and classify images with exported models, in a process of the training package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from eatnas_daemon.training_programs import run_training_program
from eatnas_db.domain.suggestions import did_you_mean
from eatnas_db.errors import ConflictError, NotFoundError
from eatnas_db.models import export_fields, find_model
from eatnas_db.output_files import require_free
from eatnas_db.queries.trained_models import TrainedModel
from eatnas_db.settings import Settings

EXPORT_PROGRAM: Final = "eatnas_training.export.exporting"
PREDICTION_PROGRAM: Final = "eatnas_training.export.prediction"
FORMATS: Final = {"safetensors": ".safetensors", "pt2": ".pt2", "onnx": ".onnx", "python": ".py"}
"""The suffix of the exported file, by format."""
MODULE_FORMATS: Final = ("safetensors", "python")
"""The formats of the two files that together run a network without this program."""
Publish = Callable[[TrainedModel, Path, Path], None]
"""Publishes a model, given the files of its Python module and its weights."""


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """An exported file, the accuracy of its network on validation images, and the largest difference between its logits
    and the checkpoint's.
    """

    file: str
    bytes: int
    accuracy: float
    difference: float


def parse_formats(names: Sequence[str], output: Path) -> list[str]:
    """Return the formats in `names`. Each name may be a list of formats separated by commas.

    Without names, return the format whose suffix `output` has, or safetensors if there is none.

    `python` includes `safetensors`, because the Python module loads a safetensors file. Raises `ConflictError`.
    """
    formats = [part.strip() for name in names for part in name.split(",")]
    if not formats:
        formats = [name for name, suffix in FORMATS.items() if suffix == output.suffix] or ["safetensors"]
    for name in formats:
        if name not in FORMATS:
            raise ConflictError(f"unknown format {name!r}{did_you_mean(name, FORMATS)} (known: {', '.join(FORMATS)})")
    if "python" in formats:
        formats.append("safetensors")
    return [name for name in FORMATS if name in formats]


def export_model(
    settings: Settings,
    model: str,
    formats: Sequence[str],
    output: Path,
    *,
    force: bool = False,
    publish: Publish | None = None,
) -> list[ExportedFile]:
    """Export the model of a candidate or of a search in these formats.

    `publish` is called with the model and the files of the format `python`, which exist only during this call. If
    `publish` fails, the exported files stay. Raises `EatnasError`.
    """
    targets = {name: str(path) for name, path in target_files(output, formats).items()}
    for path in targets.values():
        require_free(Path(path), force=force)
    trained = find_model(settings, model)
    fields = {**export_fields(settings, trained), "force": force}
    if publish is None:
        return _run_export(fields, targets)
    # Use the file system of `output`, because finished files are renamed.
    with TemporaryDirectory(prefix=".eatnas-mlflow-", dir=output.parent) as folder:
        module = {name: str(path) for name, path in target_files(Path(folder) / "model", MODULE_FORMATS).items()}
        files = _run_export(fields, targets)
        _run_export(fields, module)
        publish(trained, Path(module["python"]), Path(module["safetensors"]))
    return files


def _run_export(fields: dict[str, Any], targets: Mapping[str, str]) -> list[ExportedFile]:
    files: list[dict[str, Any]] = run_training_program(EXPORT_PROGRAM, request={**fields, "targets": dict(targets)})
    return [ExportedFile(**file) for file in files]


def target_files(output: Path, formats: Sequence[str]) -> dict[str, Path]:
    """Return the file of each format: `output` with the suffix of the format. It replaces the suffix of another format.

    Raises `ConflictError` if `output` has no file name.
    """
    if output.name in ("", ".."):  # an empty argument becomes the path `.`, whose name is empty
        raise ConflictError(f"{output} is a folder; give a file name")
    stem = output.with_suffix("") if output.suffix in FORMATS.values() else output
    return {name: stem.with_name(stem.name + FORMATS[name]) for name in formats}


def predict_images(model: Path, images: Sequence[Path], top: int) -> list[dict[str, Any]]:
    """Return the `top` most probable classes of each image as rows. Raises `EatnasError`."""
    for image in images:
        if not image.is_file():
            raise NotFoundError(f"no image {image}; give the paths of image files")
    request = {"file": str(model), "images": list(map(str, images)), "top": top}
    rows: list[dict[str, Any]] = run_training_program(PREDICTION_PROGRAM, request=request)
    return rows
