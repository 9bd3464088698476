"""What a user asks for: the search specification, checked at the edge. The domain's one use of pydantic."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import PRESETS, Macro
from eatnas_db.domain.recipe import without_timing
from eatnas_db.errors import InvalidArchitectureError, InvalidSpecError

MAXIMUM_INTEGER: Final = 2**63 - 1
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class _Section(BaseModel):
    # allow_inf_nan: YAML's .nan and .inf pass every comparison or none; no field means either.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean(cls, value: Any) -> Any:
        if isinstance(value, bool):  # else YAML's `yes` would count as 1
            raise ValueError("no field is a yes or no")
        return value


class MacroSpec(_Section):
    """A macro of the user's own: as many blocks as there are strides."""

    name: str = Field(pattern=NAME_PATTERN)
    stem_channels: int = Field(ge=1, le=4096)
    stem_stride: int = Field(1, ge=1, le=4)
    strides: tuple[int, ...] = Field(min_length=1, max_length=32)
    base: tuple[int, ...] = Field(min_length=1, max_length=32)
    head_channels: int = Field(ge=1, le=16384)
    multiplier: float = Field(1.0, gt=0, le=16)

    @field_validator("name")
    @classmethod
    def _own_name(cls, value: str) -> str:
        if value in PRESETS:
            raise ValueError(f"{value} is built in; give a macro of your own another name")
        return value

    @model_validator(mode="after")
    def _agree(self) -> MacroSpec:
        if len(self.strides) != len(self.base):
            raise ValueError(
                f"strides has {len(self.strides)} entries and base has {len(self.base)}; both want one for each block"
            )
        if not all(1 <= stride <= 4 for stride in self.strides):
            raise ValueError("every stride is from 1 to 4")
        if not all(1 <= channels <= 16384 for channels in self.base):
            raise ValueError("every base is from 1 to 16384 channels")
        return self

    def to_macro(self) -> Macro:
        """The same as plain data."""
        return Macro(**self.model_dump())


class DataSpec(_Section):
    """Which images: a data set by name, and what of its training part is trained on and validated on."""

    name: str = Field(min_length=1)
    root: str | None = Field(None, description="folder of the files; default: the home's data folder")
    resolution: int | None = Field(None, ge=4, le=1024, description="side in pixels; default: as stored")
    train_images: int | None = Field(None, ge=1, description="default: all that validation leaves")
    validation_images: int | None = Field(None, ge=1, description="default: a fifth of the training part")
    split_seed: int = Field(0, ge=0, le=MAXIMUM_INTEGER)


class TrainingSpec(_Section):
    """The recipe: everything but the architecture and the images that decides a training's bits."""

    epochs: int = Field(10, ge=1, le=100_000)
    batch_size: int = Field(64, ge=2, le=65_536)
    learning_rate: float = Field(0.1, gt=0, le=100)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps; cosine takes the rest")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(4e-5, ge=0, le=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    augment: Literal["none", "shift", "crop_flip"] = "crop_flip"
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="bfloat16 and auto: on a CUDA device what it has in hardware; auto on a processor: float32"
    )
    threads: int = Field(1, ge=1, le=1024, description="CPU threads of a worker; other values, other bits")
    checkpoint_seconds: float = Field(30.0, gt=0, le=86_400)

    def without_timing(self) -> dict[str, Any]:
        """The recipe's fields that decide bits: all but the checkpoints' interval."""
        return without_timing(self.model_dump())


class EvolutionSpec(_Section):
    """How the population renews itself."""

    population: int = Field(20, ge=2, le=100_000)
    tournament: int = Field(5, ge=1, le=100_000)
    removal: Literal["oldest", "worst", "mixed"] = "oldest"
    lag: int | None = Field(
        None, ge=1, le=100_000, description="births in flight; default: twice the slots, at least 4"
    )
    stop_when: Literal["budget", "quality_flat"] = "budget"
    flat_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="steps without a rise of quality; default: four populations"
    )
    flat_by: float = Field(0.001, ge=0, le=1e9, description="a quality has risen when it is higher by more")

    @model_validator(mode="after")
    def _tournament_fits(self) -> EvolutionSpec:
        if self.tournament > self.population:
            raise ValueError(f"tournament ({self.tournament}) cannot be larger than population ({self.population})")
        if self.lag is not None and self.lag > self.population:
            raise ValueError(
                f"lag ({self.lag}) cannot be larger than population ({self.population}): "
                "the first children would find nobody alive"
            )
        return self


class ObjectiveSpec(_Section):
    """What fitness is, and what may not be proposed at all."""

    target_mult_adds: int | None = Field(None, ge=1, le=MAXIMUM_INTEGER)
    exponent: float = Field(-0.07, ge=-10, le=10)
    max_params: int | None = Field(None, ge=1, le=MAXIMUM_INTEGER)
    max_mult_adds: int | None = Field(None, ge=1, le=MAXIMUM_INTEGER)


class BudgetSpec(_Section):
    """When a search ends."""

    candidates: int = Field(100, ge=1, le=100_000_000)
    device_hours: float | None = Field(None, gt=0, le=1e9)
    candidate_seconds: float | None = Field(None, gt=0, le=1e9)
    slots: int | None = Field(None, ge=1, le=100_000, description="in training at a time, over all hosts")


class TransferSpec(_Section):
    """How a basic architecture becomes an initial population: another search's best, or one of the user's own."""

    basic: str | None = Field(None, description="a readable code; `search create` begins with it")
    start: Literal["perturbations", "survivors"] = Field(
        "perturbations", description="of the basic architecture; or who lived at the end of the source, unchanged"
    )
    blocks: int = Field(3, ge=1, le=32, description="the most blocks that a perturbation changes")
    primitives: tuple[Literal["op", "kernel", "skip", "depth", "width"], ...] = Field(
        ("op", "kernel", "skip", "depth", "width"), min_length=1
    )
    stretch_to: int | None = Field(None, ge=1, le=MAXIMUM_INTEGER, description="mult-adds; default: as it is")
    stretch: tuple[Literal["depth", "width"], ...] = Field(("depth", "width"), min_length=1)
    weights: Literal["fresh", "inherited"] = "fresh"

    @field_validator("basic")
    @classmethod
    def _is_a_code(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                Architecture.parse(value)
            except InvalidArchitectureError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _weights_have_a_source(self) -> TransferSpec:
        if self.basic is not None and self.weights != "fresh":
            raise ValueError("weights cannot be inherited from transfer.basic, which has none")
        return self

    @model_validator(mode="after")
    def _survivors_come_as_they_are(self) -> TransferSpec:
        if self.start == "survivors" and self.basic is not None:
            raise ValueError("start: survivors wants a search to come from, and basic is one architecture")
        if self.start == "survivors" and self.stretch_to is not None:
            raise ValueError("start: survivors takes architectures unchanged, and stretch_to changes them")
        return self


class InheritanceSpec(_Section):
    """Whether a child goes on from its parent's weights, and how it is trained then."""

    weights: Literal["fresh", "inherited"] = "fresh"
    epochs: int | None = Field(None, ge=1, le=100_000, description="of a child; default: as `training.epochs`")
    learning_rate: float | None = Field(None, gt=0, le=100, description="of a child; default: a third of training's")


class YardstickSpec(_Section):
    """How the best of a search are trained again from scratch, with fresh seeds, when it ends."""

    top: int = Field(4, ge=0, le=1000, description="so many of the best; 0: none")
    seeds: int = Field(3, ge=1, le=100)
    epochs: int | None = Field(None, ge=1, le=100_000, description="default: as `training.epochs`")


class SearchSpec(_Section):
    """One search, whole. Equal specs give equal histories."""

    name: str = Field(pattern=NAME_PATTERN)
    seed: int = Field(0, ge=0, le=MAXIMUM_INTEGER)
    priority: int = Field(0, ge=-1000, le=1000)
    space: str | MacroSpec = "eatnas-small"
    data: DataSpec
    training: TrainingSpec = TrainingSpec()
    evolution: EvolutionSpec = EvolutionSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    budget: BudgetSpec = BudgetSpec()
    transfer: TransferSpec = TransferSpec()
    inheritance: InheritanceSpec = InheritanceSpec()
    yardstick: YardstickSpec = YardstickSpec()

    @field_validator("space", mode="before")
    @classmethod
    def _known_space(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in PRESETS:
            raise ValueError(_unknown(value, PRESETS, "space"))
        return value

    @property
    def doubts(self) -> tuple[str, ...]:
        """What may be meant so and is worth a word, a sentence each."""
        removal = self.evolution.removal
        if self.inheritance.weights == "inherited" and removal != "oldest":
            return (
                f"evolution.removal is {removal} and weights are inherited: fitness counts a lineage's epochs as well "
                "as its architecture, so the long-trained stay; `oldest` compares more fairly",
            )
        return ()

    def macro(self) -> Macro:
        """The macro that `space` names or spells out."""
        return PRESETS[self.space] if isinstance(self.space, str) else self.space.to_macro()


def parse_spec(tree: Any, overrides: Mapping[str, Any] | None = None) -> SearchSpec:
    """Check a specification read from YAML; `overrides` are `section.key` → value.

    Raises `InvalidSpecError` with one line for each mistake: the field, the value and what was allowed.
    """
    if not isinstance(tree, dict):
        raise InvalidSpecError(f"a spec is a mapping of keys to values, not {type(tree).__name__}")
    for path, value in (overrides or {}).items():
        tree = _with_override(tree, path.split("."), value, path)
    try:
        return SearchSpec.model_validate(tree)
    except ValidationError as error:
        raise InvalidSpecError("\n".join(_explained(error))) from None


def _with_override(tree: dict[str, Any], keys: list[str], value: Any, path: str) -> dict[str, Any]:
    head, *rest = keys
    if not head:
        raise InvalidSpecError(f"--set {path}: a key is empty; write section.key=value")
    if not rest:
        return {**tree, head: value}
    inner = tree.get(head, {})
    if not isinstance(inner, dict):
        raise InvalidSpecError(f"--set {path}: {head} is {inner!r} and has no keys of its own")
    return {**tree, head: _with_override(inner, rest, value, path)}


def _explained(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for problem in error.errors():
        # A union's branch (str, MacroSpec) is no key of the user's.
        location = list(map(str, problem["loc"]))
        if location[:1] == ["space"] and len(location) > 1:
            del location[1]
        path = ".".join(location)
        if location == ["space"] and problem["type"] in ("string_type", "model_type"):
            if isinstance(problem["input"], dict) or any("space:" in line for line in lines):
                continue
            lines.append(f"space: expected a name or a macro (given: {problem['input']!r})")
            continue
        if problem["type"] == "extra_forbidden":
            known = _fields_at(location[:-1])
            homes = [name for name in _SECTIONS if location[-1] in _fields_at([name])]
            if len(homes) == 1:
                known = [f"{homes[0]}.{location[-1]}"]
            lines.append(f"{path}: {_unknown(location[-1], known, 'key')}")
        elif problem["type"] == "missing":
            lines.append(f"{path}: is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            given = problem["input"]
            shown = "" if isinstance(given, dict | BaseModel) else f" (given: {given!r})"
            lines.append(f"{path}: {message[:1].lower()}{message[1:]}{shown}")
    return lines


_SECTIONS: Final = frozenset(
    name
    for name, field in SearchSpec.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
)


def _fields_at(location: list[str]) -> list[str]:
    model: type[BaseModel] = SearchSpec
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        options = [annotation, *get_args(annotation)]
        inner = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _unknown(word: str, known: Any, what: str) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown {what} {word!r}{hint} (known: {', '.join(known)})"
