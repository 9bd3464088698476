"""The description in every exported file: the network, and the preprocessing of its input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.space_definition import SpaceDefinition
from eatnas_db.errors import DataError
from eatnas_db.spaces import read_space

FORMAT_KEY: Final = "eatnas_format"
FORMAT: Final = "1"
_AS_TEXT: Final = ("search", "architecture")
"""Fields that are stored as they are; the others are stored as JSON."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the input of a network: float32 `[channels, resolution, resolution]`.

    Convert to `mode` (Pillow's `L` or `RGB`), take the centre square whose side is `crop` of the image's shorter side,
    and resize it with antialiased bilinear `interpolation`. `rounding` says where values become whole numbers: `once`,
    at the end, or `pillow`, as `Image.resize` does with `crop` as its box. Divide by 255, subtract `mean`, and divide
    by `deviation`, one number for each channel.
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

    `final`: it was trained on the validation images too. `digests` are those of the `architecture`, the `data` and the
    `checkpoint`. `metrics` holds the recorded scores, `lineage` the ancestors, the oldest first.
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
        """The space, as the network's builder takes it."""
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
        """The task in the form that the network's builder takes."""
        return Task(**self.task)

    def to_metadata(self) -> dict[str, str]:
        """Return the description as texts by name, which every format can store."""
        fields = asdict(self)
        return {
            FORMAT_KEY: FORMAT,
            **{name: value if name in _AS_TEXT else json.dumps(value) for name, value in fields.items()},
        }

    @classmethod
    def from_metadata(cls, file: object, metadata: Mapping[str, str] | None) -> ModelDescription:
        """Return the description in the metadata of a file. Raises `DataError`, which names the file."""
        if not metadata or FORMAT_KEY not in metadata:
            raise DataError(f"{file} is not a model that `eatnas-db export` wrote: it has no description of one")
        if metadata[FORMAT_KEY] != FORMAT:
            raise DataError(
                f"{file} has format {metadata[FORMAT_KEY]!r}, and this program reads format {FORMAT}; "
                "export the model again, or install a newer eatnas-db"
            )
        try:
            values = {name: text if name in _AS_TEXT else json.loads(text) for name, text in metadata.items()}
            return cls.from_json({name: values[name] for name in cls.__slots__})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the description in {file} is damaged ({error!r}); export the model again") from error

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ModelDescription:
        """Return the description from plain JSON values."""
        fields = dict(stored)
        preprocessing = dict(fields["preprocessing"])
        for name in ("mean", "deviation"):
            preprocessing[name] = tuple(preprocessing[name])
        fields["preprocessing"] = Preprocessing(**preprocessing)
        fields["classes"], fields["lineage"] = tuple(fields["classes"]), tuple(fields["lineage"])
        return cls(**fields)
