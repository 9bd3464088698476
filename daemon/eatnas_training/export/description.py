"""The description in every exported file: the network, its scores, and the preprocessing of its input."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.space_definition import SpaceDefinition
from eatnas_db.errors import DataError
from eatnas_db.spaces import read_space
from eatnas_training.error_messages import first_line

FORMAT_KEY: Final = "eatnas_format"
FORMAT: Final = "1"
MAX_COUNT: Final = 100_000_000
"""The largest resolution, number of channels, and number of classes that a description may have."""
_AS_TEXT: Final = ("search", "architecture")
"""The fields that are stored as plain strings. All other fields are stored as JSON."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The steps from an image to the input of a network, float32 `[channels, resolution, resolution]`.

    Convert to `mode` (Pillow's `L` or `RGB`), take the center square whose side is `crop` of the image's shorter side,
    and resize it with antialiased bilinear `interpolation`. `rounding` tells how values are rounded to integers: `once`
    after resizing, or `pillow`, as in `Image.resize` with the crop as its `box`. Divide by 255, subtract `mean`, and
    divide by `deviation`. `mean` and `deviation` have a number for each channel.
    """

    mode: str
    resolution: int
    crop: float
    interpolation: str
    rounding: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The origin of a network, its input and output, and its scores.

    `final` is true if the network was trained on the validation images too. `digests` has the digests of
    `architecture`, `data` and `checkpoint`. `metrics` has the recorded scores. `lineage` has the ancestors, the oldest
    first.
    """

    search: str
    candidate: int
    final: bool
    architecture: str
    macro: dict[str, Any]
    task: dict[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    digests: dict[str, str]
    recipe: dict[str, Any]
    seed: int
    metrics: dict[str, float]
    params: int
    mult_adds: int
    lineage: tuple[dict[str, Any], ...]
    versions: dict[str, str]
    device: str

    @property
    def network_macro(self) -> SpaceDefinition:
        """Return the space as an argument for `building.build`."""
        return read_space(self.macro)

    def require_macro(self, purpose: str) -> Macro:
        """Return the macro of EAT-NAS. Raises `DataError` if the network is from a space of another kind."""
        if not isinstance(self.network_macro, Macro):
            raise DataError(
                f"{purpose} needs a network of an EAT-NAS space, but {self.search} searched {self.network_macro.name}"
            )
        return self.network_macro

    @property
    def network_task(self) -> Task:
        """Return the task as an argument for `building.build`."""
        return Task(**self.task)

    def to_metadata(self) -> dict[str, str]:
        """Return the description as a mapping from names to strings, which every format can store."""
        fields = asdict(self)
        return {
            FORMAT_KEY: FORMAT,
            **{name: value if name in _AS_TEXT else json.dumps(value) for name, value in fields.items()},
        }

    @classmethod
    def from_metadata(cls, file: object, metadata: Mapping[str, str] | None) -> ModelDescription:
        """Return the description in the metadata of a file. Raises `DataError`, which names the file."""
        if not metadata or FORMAT_KEY not in metadata:
            raise DataError(f"{file} is not a model that `eatnas-db export` wrote: it has no description of a model")
        if metadata[FORMAT_KEY] != FORMAT:
            raise DataError(
                f"{file} has format {metadata[FORMAT_KEY]!r}, and this program reads format {FORMAT}; "
                "export the model again, or install a newer eatnas-db"
            )
        try:
            return cls.from_json({name: _read_field(name, metadata[name]) for name in cls.__slots__})
        except KeyError as error:
            raise _damaged(file, f"it has no {error.args[0]}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise _damaged(file, first_line(error)) from error

    def require_consistent(self, file: object) -> None:
        """Raise `DataError`, which names the file, unless the classes and the preprocessing fit the task."""
        task, preprocessing = self.network_task, self.preprocessing
        for name, found, expected in (
            ("names of classes", len(self.classes), task.classes),
            ("channels of preprocessing.mode", _MODES[preprocessing.mode], task.channels),
            ("numbers in preprocessing.mean", len(preprocessing.mean), task.channels),
            ("numbers in preprocessing.deviation", len(preprocessing.deviation), task.channels),
            ("pixels in preprocessing.resolution", preprocessing.resolution, task.resolution),
        ):
            if found != expected:
                raise _damaged(file, f"expected {expected} {name}, got {found}")

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ModelDescription:
        """Return the description from plain JSON values. Raises `ValueError` if a value cannot be used."""
        for name, kind in _KINDS.items():
            _require(isinstance(stored[name], kind) and not isinstance(stored[name], bool), name, stored[name])
        for name in ("resolution", "channels", "classes"):
            _require(_is_count(stored["task"].get(name)), f"task.{name}", stored["task"].get(name))
        classes = stored["classes"]
        _require(all(isinstance(name, str) for name in classes), "classes", classes, "texts")
        read = {
            "preprocessing": _read_preprocessing(stored["preprocessing"]),
            "classes": tuple(classes),
            "lineage": tuple(stored["lineage"]),
        }
        return cls(**{**stored, **read})


_KINDS: Final[dict[str, type]] = {
    "architecture": str,
    "classes": list,
    "digests": dict,
    "lineage": list,
    "macro": dict,
    "metrics": dict,
    "mult_adds": int,
    "preprocessing": dict,
    "recipe": dict,
    "search": str,
    "task": dict,
}
_MODES: Final = {"L": 1, "RGB": 3}
"""The number of channels of each of Pillow's modes."""
_SHOWN: Final = 60


def _read_field(name: str, text: str) -> Any:
    try:
        return text if name in _AS_TEXT else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {text[:_SHOWN]!r}") from error


def _read_preprocessing(stored: Mapping[str, Any]) -> Preprocessing:
    choices = {"mode": list(_MODES), "interpolation": ["bilinear"], "rounding": ["once", "pillow"]}
    for name, allowed in choices.items():
        _require(stored[name] in allowed, f"preprocessing.{name}", stored[name], " or ".join(allowed))
    _require(_is_count(stored["resolution"]), "preprocessing.resolution", stored["resolution"])
    crop = stored["crop"]
    _require(_is_finite(crop) and 0 < crop <= 1, "preprocessing.crop", crop, "a number above 0 and at most 1")
    for name in ("mean", "deviation"):
        values = stored[name]
        finite = isinstance(values, list) and all(map(_is_finite, values))
        usable = finite and (name == "mean" or all(value > 0 for value in values))
        _require(usable, f"preprocessing.{name}", values, "finite numbers" + ", all above 0" * (name != "mean"))
    fields = {name: stored[name] for name in Preprocessing.__slots__}
    return Preprocessing(**{**fields, "mean": tuple(stored["mean"]), "deviation": tuple(stored["deviation"])})


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_COUNT


def _require(is_usable: bool, name: str, value: object, expected: str = "") -> None:
    if not is_usable:
        wanted = f", expected {expected}" if expected else ""
        raise ValueError(f"{name} is {repr(value)[:_SHOWN]}{wanted}")


def _damaged(file: object, reason: str) -> DataError:
    return DataError(f"the description in {file} is damaged: {reason}; export the model again")
