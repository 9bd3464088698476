"""The arms of the comparison: the searches of each arm, with their specs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

MOBILENET: Final = "sep_k3_d1_w1.0_skip/" + "/".join(f"mb6_k3_d{depth}_w1.0_skip" for depth in (2, 3, 4, 3, 3, 1))
"""The blocks of MobileNetV2, written as a code of the space `eatnas-small`."""
LARGE: Final[dict[str, Any]] = {
    "space": "eatnas-small",
    "data": {"name": "FashionMNIST", "train_images": 6000, "validation_images": 5000},
    "training": {"epochs": 3, "batch_size": 64, "learning_rate": 0.2, "augment": "none"},
    "evolution": {"population": 12, "tournament": 6, "lag": 4},
    "objective": {"max_mult_adds": 6_000_000},
    "budget": {"candidates": 40},
    "reevaluation": {"top": 3, "seeds": 3},
}
SMALL: Final[dict[str, Any]] = {
    **LARGE,
    "data": {**LARGE["data"], "resolution": 14, "train_images": 2000},
    "objective": {"max_mult_adds": 1_550_000},
    "evolution": {"population": 8, "tournament": 4, "lag": 4},
    "budget": {"candidates": 32},
    "reevaluation": {"top": 2, "seeds": 2},
}
TRANSFERRED: Final[dict[str, Any]] = {
    "evolution": {"population": 8, "tournament": 4, "lag": 4},
    "transfer": {"blocks": 3},
}
GUIDED: Final[dict[str, Any]] = {"evolution": {"births": "guided"}}
INHERITING: Final[dict[str, Any]] = {"inheritance": {"weights": "inherited", "epochs": 1}}


@dataclass(frozen=True, slots=True)
class ArmSearch:
    """One search of an arm."""

    name: str
    spec: dict[str, Any]
    source: str | None = None
    """The search from which this search is transferred."""


def merge(base: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the spec in which the changes replace single keys of a section and keep the other keys."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for change in changes:
        for key, value in change.items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


def is_small(search: str) -> bool:
    """Return whether the search with this name is on the small task."""
    return search.startswith("small")


def main_arms(seed: int) -> dict[str, list[ArmSearch]]:
    """Return the searches of every arm, in order. Arms with the same small search share its name and its result."""
    small = ArmSearch(f"small-{seed}", {**SMALL, "seed": seed})
    small_inherits = ArmSearch(f"small-inherits-{seed}", merge(SMALL, INHERITING, {"seed": seed}))
    start_spec = merge(LARGE, {"budget": {"candidates": 8}, "evolution": {"population": 8}, "reevaluation": {"top": 0}})
    start = ArmSearch(f"start-{seed}", {**start_spec, "seed": seed})

    def large(name: str, *changes: dict[str, Any], source: str | None = None) -> ArmSearch:
        return ArmSearch(f"{name}-{seed}", merge(LARGE, *changes, {"seed": seed}), source)

    random_search = {"evolution": {"population": 40, "tournament": 1, "lag": 4}}
    mobilenet = {**TRANSFERRED, "transfer": {"blocks": 3, "basic": MOBILENET}}
    basic_alone = {"evolution": {"population": 2, "tournament": 1, "lag": 1}, "budget": {"candidates": 2}}
    survivors = {"transfer": {"start": "survivors"}}
    fewer = {"budget": {"candidates": 32}}
    # The guided arms have small budgets, because they only show how fast the quality rises.
    guided = merge(GUIDED, {"budget": {"candidates": 28}, "reevaluation": {"top": 0}})
    learnt = merge(GUIDED, {"transfer": {"start": "model"}, "budget": {"candidates": 20}, "reevaluation": {"top": 0}})
    small_guided = ArmSearch(
        f"small-guided-{seed}",
        merge(SMALL, GUIDED, {"budget": {"candidates": 24}, "reevaluation": {"top": 0}, "seed": seed}),
    )
    return {
        "random": [large("random", random_search)],
        "scratch": [large("scratch")],
        "guided": [large("guided", guided)],
        "learnt": [small_guided, large("learnt", learnt, source=small_guided.name)],
        "transfer": [small, large("transfer", TRANSFERRED, source=small.name)],
        "handmade": [large("handmade", mobilenet)],
        "best-of-random": [start, large("best-of-random", TRANSFERRED, fewer, source=start.name)],
        "basic-alone": [small, large("basic-alone", basic_alone, source=small.name)],
        "survivors": [small, large("survivors", TRANSFERRED, survivors, source=small.name)],
        "scratch-inherits": [large("scratch-inherits", INHERITING)],
        "transfer-inherits": [
            small_inherits,
            large("transfer-inherits", TRANSFERRED, INHERITING, source=small_inherits.name),
        ],
    }


def variations(seed: int) -> dict[str, list[ArmSearch]]:
    """Return arms that each change one setting of the transfer. Their 20 candidates suffice to compare the speed."""
    small = main_arms(seed)["transfer"][0]

    def short(name: str, *changes: dict[str, Any], source: ArmSearch = small) -> list[ArmSearch]:
        end = {"budget": {"candidates": 20}, "reevaluation": {"top": 0}, "seed": seed}
        return [source, ArmSearch(f"{name}-{seed}", merge(LARGE, TRANSFERRED, *changes, end), source.name)]

    def small_with(candidates: int) -> ArmSearch:
        return ArmSearch(f"small-{candidates}-{seed}", merge(small.spec, {"budget": {"candidates": candidates}}))

    return {
        "after-64": short("after-64", source=small_with(64)),
        "after-16": short("after-16", source=small_with(16)),
        "after-8": short("after-8", source=small_with(8)),
        "blocks-1": short("blocks-1", {"transfer": {"blocks": 1}}),
        "blocks-2": short("blocks-2", {"transfer": {"blocks": 2}}),
        "population-12": short("population-12", {"evolution": LARGE["evolution"]}),
    }
