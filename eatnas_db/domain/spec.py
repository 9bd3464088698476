"""The search spec, parsed and validated with pydantic."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from eatnas_db.domain.cell_space import CELL_PRESETS
from eatnas_db.domain.data_state import NO_DATA
from eatnas_db.domain.final_recipe import final_recipe
from eatnas_db.domain.integers import MAX_BIGINT
from eatnas_db.domain.macro import PRESETS, Macro
from eatnas_db.domain.objective import BUILT_IN_METRICS, METRIC_PATTERN, VALIDATION_ACCURACY, VALIDATION_LOSS
from eatnas_db.domain.objectives import DIRECTIONS
from eatnas_db.domain.plain_scalars import plain_values
from eatnas_db.domain.recipe import without_timing
from eatnas_db.domain.spec_errors import describe_errors, describe_unknown
from eatnas_db.domain.spec_fidelity import FidelitySpec
from eatnas_db.domain.spec_final import FinalSpec
from eatnas_db.domain.spec_objective import MetricSpec, expand_objectives, require_metrics, require_population
from eatnas_db.domain.spec_overrides import with_override
from eatnas_db.domain.spec_patterns import NAME_PATTERN
from eatnas_db.domain.spec_program import (
    ProgramOptions,
    ProgramSpec,
    first_score,
    known_to_program,
    require_metric_names,
)
from eatnas_db.domain.spec_section import SpecSection
from eatnas_db.domain.spec_space import MacroSpec
from eatnas_db.domain.spec_transfer import TransferSpec
from eatnas_db.errors import InvalidSpecError
from eatnas_db.text_encoding import find_unstorable


class DataSpec(SpecSection):
    """The images: a data set by name, and the split of its training part into training and validation images."""

    name: str = Field(min_length=1)
    root: str | None = Field(
        None, description="folder with the files of the data set; default: the data folder of the home"
    )
    resolution: int | None = Field(None, ge=4, le=1024, description="side of the images in pixels; default: as stored")
    train_images: int | None = Field(
        None,
        ge=1,
        description="number of training images; default: all images of the training part that are not for validation",
    )
    validation_images: int | None = Field(
        None, ge=1, description="number of validation images; default: a fifth of the training part"
    )
    split_seed: int = Field(0, ge=0, le=MAX_BIGINT)
    on_unreadable: Literal["fail", "skip"] = Field("fail", description="what to do if an image cannot be read")
    stratify: bool = Field(
        False,
        strict=True,
        description="whether each class has the same share of the training and of the validation images",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: the loss of an image is divided by the share of its class"
    )

    options: dict[str, str | int | float | bool | None] = Field(
        {}, description="further arguments for a data set of torchvision or of a package, or the names of columns"
    )

    stored_if_set = frozenset({"stratify", "class_weights", "options"})

    @field_validator("options", mode="before")
    @classmethod
    def _convert_options(cls, value: Any) -> Any:
        options = plain_values(value)
        if isinstance(options, dict):
            for key, option in options.items():
                if not isinstance(key, str) or isinstance(option, dict | list):
                    raise ValueError(f"{key!r} must be a string, and its value a string, a number, true, false or null")
        return options


class TrainingSpec(SpecSection):
    """The recipe: everything that affects a training's results, except the architecture, the images and the seed."""

    epochs: int = Field(10, ge=1, le=100_000)
    batch_size: int = Field(64, ge=2, le=65_536)
    learning_rate: float = Field(0.1, gt=0, le=100)
    warmup: float = Field(
        0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises; it then falls as a cosine"
    )
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(4e-5, ge=0, le=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    augment: Literal["none", "flip", "shift", "crop_flip"] = "crop_flip"
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on a CUDA device with hardware support for it, float32 elsewhere"
    )
    arithmetic: Literal["native", "portable"] = Field(
        "native", description="portable: slower, with bit-identical results on all x86-64 processors with AVX2"
    )
    threads: int = Field(1, ge=1, le=1024, description="number of CPU threads of a worker; results depend on it")
    checkpoint_seconds: float = Field(30.0, gt=0, le=86_400)
    program: ProgramSpec | None = Field(
        None, description="a training of your own: a function of an installed package, as `module:name`"
    )
    options: ProgramOptions = Field({}, description="further values for `training.program`")

    stored_if_set = frozenset({"program", "options"})

    @model_validator(mode="after")
    def _options_have_a_program(self) -> TrainingSpec:
        if self.options and self.program is None:
            raise ValueError("options need a training.program, but none is set; set one, or remove the options")
        return self

    def without_timing(self) -> dict[str, Any]:
        """Return the fields that affect results: all except the interval of checkpoints."""
        return without_timing(self.model_dump())


class EvolutionSpec(SpecSection):
    """The evolution of the population, and the condition that ends the search before its budget."""

    stored_if_set = frozenset({"acquisition", "fidelity"})

    population: int = Field(20, ge=2, le=100_000)
    tournament: int = Field(5, ge=1, le=100_000)
    removal: Literal["oldest", "worst", "mixed"] = "oldest"
    births: Literal["mutation", "guided"] = Field(
        "mutation", description="guided: a model of the scores so far proposes the networks"
    )
    acquisition: Literal["improvement", "improvement_per_second"] = Field(
        "improvement",
        description="whether guided births maximize the improvement per birth or per predicted device second",
    )
    lag: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="maximum number of births in training at a time; default: twice the slots, at least 4",
    )
    stop_when: Literal["budget", "quality_flat"] = "budget"
    flat_steps: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="steps without a rise of quality that end the search; default: 4 times `population`",
    )
    flat_by: float = Field(0.001, ge=0, le=1e9, description="the smallest increase of quality that counts as a rise")
    fidelity: FidelitySpec | None = Field(None, description="rungs; default: every candidate gets the whole training")

    @model_validator(mode="after")
    def _check_acquisition(self) -> EvolutionSpec:
        if self.acquisition != "improvement" and self.births != "guided":
            raise ValueError(
                f"`acquisition: {self.acquisition}` needs `births: guided`, whose model predicts improvements; add "
                "`births: guided`, or remove `acquisition`"
            )
        return self

    @model_validator(mode="after")
    def _check_sizes(self) -> EvolutionSpec:
        if self.tournament > self.population:
            raise ValueError(f"tournament ({self.tournament}) cannot be larger than population ({self.population})")
        if self.lag is not None and self.lag > self.population:
            raise ValueError(
                f"lag ({self.lag}) cannot be larger than population ({self.population}): "
                "the first tournament would find no members"
            )
        return self


class ObjectiveSpec(SpecSection):
    """The metric to optimize, the definition of fitness, and hard limits on proposed architectures."""

    stored_if_set = frozenset({"metric", "direction", "metrics"})

    metric: str = Field(
        VALIDATION_ACCURACY,
        pattern=METRIC_PATTERN,
        description="the metric whose value after the last epoch decides fitness",
    )
    direction: Literal["maximize", "minimize"] = Field(
        "maximize", description="whether larger or smaller values of the metric are better"
    )
    target_mult_adds: int | None = Field(None, ge=1, le=MAX_BIGINT)
    exponent: float = Field(-0.07, ge=-10, le=10)
    max_params: int | None = Field(None, ge=1, le=MAX_BIGINT)
    max_mult_adds: int | None = Field(None, ge=1, le=MAX_BIGINT)
    metrics: tuple[MetricSpec, ...] | None = Field(
        None, description="several objectives; the page `Several objectives` of the documentation explains them"
    )

    @model_validator(mode="after")
    def _require_one_form(self) -> ObjectiveSpec:
        alone = self.model_fields_set & {"metric", "direction"}
        if self.metrics is not None and self.target_mult_adds is not None:
            raise ValueError("target_mult_adds and metrics cannot be combined; add mult_adds to the metrics instead")
        if self.metrics is not None and alone:
            raise ValueError(f"{min(alone)} and metrics cannot be combined; describe every metric in metrics")
        return self


class BudgetSpec(SpecSection):
    """Limits on a search and on each of its candidates."""

    candidates: int = Field(100, ge=1, le=100_000_000)
    device_hours: float | None = Field(None, gt=0, le=1e9)
    candidate_seconds: float | None = Field(None, gt=0, le=1e9)
    slots: int | None = Field(
        None, ge=1, le=100_000, description="maximum number of candidates in training at a time, over all hosts"
    )
    equal_failures: int = Field(
        10,
        ge=0,
        le=100_000,
        description="number of consecutive failures for the same reason that pause the search; 0: never pause",
    )


class InheritanceSpec(SpecSection):
    """Whether children start from their parents' weights, and how such children are trained."""

    weights: Literal["fresh", "inherited"] = "fresh"
    epochs: int | None = Field(
        None, ge=1, le=100_000, description="epochs of a child that inherits weights; default: `training.epochs`"
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=100,
        description="peak learning rate of a child that inherits weights; default: a third of `training.learning_rate`",
    )


class ReevaluationSpec(SpecSection):
    """The re-evaluation: trainings of the best candidates from scratch with fresh seeds when the search ends."""

    top: int = Field(4, ge=0, le=1000, description="number of candidates that are re-evaluated, best first; 0: none")
    seeds: int = Field(3, ge=1, le=100)
    epochs: int | None = Field(None, ge=1, le=100_000, description="default: `training.epochs`")


class SearchSpec(SpecSection):
    """The complete specification of a search. Equal specs give equal histories."""

    name: str = Field(pattern=NAME_PATTERN)
    seed: int = Field(0, ge=0, le=MAX_BIGINT)
    priority: int = Field(0, ge=-1000, le=1000)
    space: str | MacroSpec = "eatnas-small"
    data: DataSpec
    training: TrainingSpec = TrainingSpec()
    evolution: EvolutionSpec = EvolutionSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    budget: BudgetSpec = BudgetSpec()
    transfer: TransferSpec = TransferSpec()
    inheritance: InheritanceSpec = InheritanceSpec()
    reevaluation: ReevaluationSpec = ReevaluationSpec()
    final: FinalSpec = FinalSpec()

    stored_if_set = frozenset({"final"})

    @field_validator("name")
    @classmethod
    def _not_an_id(cls, value: str) -> str:
        if value.isdecimal():
            raise ValueError(
                "a name that has only digits would be read as the id of a candidate; add a letter, `.`, `_` or `-`, "
                f"for example s{value[:62]}"
            )
        return value

    @field_validator("space")
    @classmethod
    def _known_space(cls, value: str | MacroSpec, info: ValidationInfo) -> str | MacroSpec:
        known = (*PRESETS, *CELL_PRESETS, *((info.context or {}).get("plugin_spaces", ())))
        if isinstance(value, str) and value not in known:
            raise ValueError(describe_unknown(value, known, "space"))
        return value

    @model_validator(mode="before")
    @classmethod
    def _expand_objectives(cls, tree: Any) -> Any:
        return expand_objectives(tree)

    @model_validator(mode="after")
    def _check_objectives(self) -> SearchSpec:
        metrics = self.objective.metrics
        if metrics is not None:
            try:
                known = DIRECTIONS if self.training.program is None else known_to_program(metrics)
                require_metrics(metrics, known)
            except ValueError as error:
                raise ValueError(f"objective.metrics: {error}") from None
            require_population(metrics, self.evolution.population)
            if self.evolution.births == "guided":
                raise ValueError(
                    "evolution: `births: guided` models a single objective, so it cannot be combined with "
                    "objective.metrics; use `births: mutation`"
                )
        return self

    @model_validator(mode="after")
    def _model_of_sources_guides_births(self) -> SearchSpec:
        if self.transfer.start == "model" and self.evolution.births != "guided":
            raise ValueError(
                "`transfer.start: model` needs `evolution.births: guided`; set `evolution.births: guided`, or use "
                "`transfer.start: survivors`"
            )
        return self

    @model_validator(mode="after")
    def _training_measures_the_metric(self) -> SearchSpec:
        if self.training.program is None and self.objective.metric not in BUILT_IN_METRICS:
            raise ValueError(
                f"objective.metric is {self.objective.metric}, but the built-in training measures only "
                f"{' and '.join(BUILT_IN_METRICS)}; choose one of them"
            )
        if self.training.program is not None:
            require_metric_names(self.objective.metric, self.objective.metrics)
        return self

    @model_validator(mode="after")
    def _program_fits_the_other_sections(self) -> SearchSpec:
        if self.evolution.fidelity is not None:
            self.evolution.fidelity.require_fitting(self)
        if self.training.program is None and self.data.name == NO_DATA:
            raise ValueError("data.name is none, but the built-in training needs images; name a data set")
        if self.training.program is not None:
            for section, weights in (("inheritance", self.inheritance.weights), ("transfer", self.transfer.weights)):
                if weights != "fresh":
                    raise ValueError(
                        f"{section}.weights is {weights}, but only the checkpoints of the built-in training hold "
                        "weights that a child can inherit; use `weights: fresh` with training.program"
                    )
            first = first_score(self.objective.metrics or ())
            if first is not None and "metric" not in self.objective.model_fields_set:
                update = {"metric": first.metric, "direction": first.direction}
                return self.model_copy(update={"objective": self.objective.model_copy(update=update)})
        return self

    @property
    def warnings(self) -> tuple[str, ...]:
        """Settings that are valid but may not be intended, one sentence each."""
        warnings = []
        if self.objective.metric == VALIDATION_LOSS and self.objective.direction == "maximize":
            warnings.append(
                "objective.metric is val_loss and objective.direction is maximize: the search prefers networks with a "
                "large loss; use `direction: minimize`"
            )
        if self.evolution.population > self.budget.candidates:
            warnings.append(
                f"evolution.population is {self.evolution.population} and budget.candidates is "
                f"{self.budget.candidates}: the search ends before its first mutation; lower the population, or raise "
                "the budget"
            )
        removal = self.evolution.removal
        if self.inheritance.weights == "inherited" and removal != "oldest":
            warnings.append(
                f"evolution.removal is {removal} and weights are inherited: candidates with a longer training history "
                "have an advantage and stay in the population; use `oldest` for a fairer comparison"
            )
        return tuple(warnings)

    def macro(self) -> Macro:
        """Return the EAT-NAS macro that `space` names or defines. `spaces.space_of_spec` accepts other spaces, too."""
        return PRESETS[self.space] if isinstance(self.space, str) else self.space.to_macro()


def parse_spec(
    tree: Any, overrides: Mapping[str, Any] | None = None, *, plugin_spaces: Collection[str] = ()
) -> SearchSpec:
    """Validate a spec, given as the mapping that a YAML file holds. `overrides` maps `section.key` to values.

    `plugin_spaces`: the names of the spaces of installed packages.

    Raises `InvalidSpecError` with one line per error; each line states the key, the allowed values, and the given
    value.
    """
    if not isinstance(tree, dict):
        raise InvalidSpecError(
            f"a spec must be a mapping of keys to values, got {type(plain_values(tree)).__name__}; "
            "see examples/digits.yaml"
        )
    if (unstorable := find_unstorable([tree, overrides or {}])) is not None:
        raise InvalidSpecError(f"the text {unstorable} has characters that cannot be stored; write it in UTF-8")
    for path, value in (overrides or {}).items():
        tree = with_override(tree, path.split("."), value, path)
    try:
        space = tree.get("space", "eatnas-small")
        of_eat_nas = "ops" not in space if isinstance(space, dict) else space in PRESETS
        context = {"plugin_spaces": plugin_spaces, "codes_of_eat_nas": of_eat_nas}
        spec = SearchSpec.model_validate(tree, context=context)
    except ValidationError as error:
        raise InvalidSpecError("\n".join(describe_errors(error, SearchSpec))) from None
    final_recipe(spec.training.model_dump(), spec.final.to_keys())  # raises if keys contradict each other
    return spec
