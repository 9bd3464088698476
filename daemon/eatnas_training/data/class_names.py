"""The names of a data set's classes, in the order of their labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from eatnas_training.data.catalog import get_data_set, is_map_style
from eatnas_training.data.file_sets import is_file_set, list_training_files
from eatnas_training.data.map_style import open_map_style

_NAMES: Final = {
    "FashionMNIST": "T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot",
    "CIFAR10": "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck",
    "CIFAR100": (
        "apple, aquarium_fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus, "
        "butterfly, camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, cockroach, couch, crab, "
        "crocodile, cup, dinosaur, dolphin, elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard, "
        "lamp, lawn_mower, leopard, lion, lizard, lobster, man, maple_tree, motorcycle, mountain, mouse, mushroom, "
        "oak_tree, orange, orchid, otter, palm_tree, pear, pickup_truck, pine_tree, plain, plate, poppy, porcupine, "
        "possum, rabbit, raccoon, ray, road, rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, "
        "spider, squirrel, streetcar, sunflower, sweet_pepper, table, tank, telephone, television, tiger, tractor, "
        "train, trout, tulip, turtle, wardrobe, whale, willow_tree, wolf, woman, worm"
    ),
}


def list_class_names(data: Mapping[str, Any], classes: int | None = None) -> tuple[str, ...]:
    """Return the class names of a `DataSpec`: the names in the data set, the names of its folders, or numbers.

    Raises `DataError`.

    `classes` is the number of classes of a data set without class names.
    """
    name = str(data["name"])
    if is_file_set(name):
        # A folder's name may be any bytes, but other programs read these names as UTF-8.
        return tuple(os.fsencode(label).decode("utf-8", "replace") for label in list_training_files(data).class_names)
    if is_map_style(name):
        part = open_map_style(data, train=True)
        if part is not None and part.class_names is not None:
            return part.class_names
        return tuple(map(str, range(classes or 0)))
    if name in _NAMES:
        return tuple(_NAMES[name].split(", "))
    return tuple(map(str, range(get_data_set(name).classes)))
