"""The recipe of final models: the recipe of the search, changed by a preset and by the keys of the section `final`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from eatnas_db.domain.recipe import FINAL_EPOCHS_FACTOR
from eatnas_db.errors import InvalidSpecError

METHODS_OFF: Final[dict[str, Any]] = {
    "optimizer": "sgd",
    "clip_norm": 0.0,
    "ema_decay": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "auto_augment": "none",
    "random_erasing": 0.0,
    "stochastic_depth": 0.0,
    "dropout": 0.0,
    "end_resolution": None,
    "end_epochs": 0,
    "devices": 1,
    "from": None,
}
"""The keys that only recipes of final models have, and their defaults.

A stored recipe leaves out keys that have their default value.
"""
AUGMENTED_CHANNELS: Final = (1, 3)
"""The numbers of channels that RandAugment and TrivialAugment can change."""
FINAL_PRESETS: Final[dict[str, dict[str, Any]]] = {
    # The paper states 250 epochs with label smoothing, and nothing else of its recipe.
    "eatnas-paper": {
        "epochs": 250,
        "label_smoothing": 0.1,
        "weight_decay": 4e-5,
        "augment": "crop_flip",
    },
    # The best of several recipes on validation images of Fashion-MNIST; docs/final-models.md has the table.
    "strong": {"batch_size": 32, "learning_rate": 0.1, "weight_decay": 5e-4, "ema_decay": 0.99},
}
"""Maps the name of each preset to the keys that the preset sets."""


def final_recipe(training: Mapping[str, Any], final: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of final models of a search with this section `training`.

    A key of the section `final` takes precedence over its preset, and the preset over `training`. The recipe does not
    contain `final.from`, because only the record knows the weights that this key names. Raises `InvalidSpecError` if
    the keys contradict each other.
    """
    keys = {key: value for key, value in final.items() if value is not None and key != "from"}
    chosen = FINAL_PRESETS.get(keys.pop("preset", ""), {}) | keys
    recipe = {"epochs": FINAL_EPOCHS_FACTOR * training["epochs"], **chosen}
    recipe = {key: value for key, value in ({**training, **recipe}).items() if value != METHODS_OFF.get(key, object())}
    if ("end_resolution" in recipe) != ("end_epochs" in recipe):
        raise InvalidSpecError("final: end_resolution and end_epochs need each other; set both or neither")
    if recipe["batch_size"] < 2 * recipe.get("devices", 1):
        raise InvalidSpecError(
            f"final.devices: {recipe['devices']} devices need a batch_size of at least {2 * recipe['devices']} "
            f"(given: {recipe['batch_size']})"
        )
    if recipe.get("end_epochs", 0) > recipe["epochs"]:
        raise InvalidSpecError(
            f"final.end_epochs: {recipe['end_epochs']} exceeds the {recipe['epochs']} epochs of a final model; "
            "lower it or raise final.epochs"
        )
    return recipe
