from pathlib import Path

import pytest

from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.objective import Limits
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import parse_spec
from eatnas_db.yaml_files import parse_yaml

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
TASKS = {
    "digits": Task(8, 1, 10),
    "FashionMNIST": Task(28, 1, 10),
    "CIFAR10": Task(32, 3, 10),
    "ImageNet": Task(224, 3, 1000),
}


def read(path: Path):
    return parse_spec(parse_yaml(path.read_text()))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_valid_and_named_after_its_file(path):
    assert read(path).name == path.stem


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_space_is_large_enough(path):
    spec = read(path)
    limits = Limits(spec.objective.max_params, spec.objective.max_mult_adds)
    task = TASKS[spec.data.name]
    space = Space(spec.macro(), task, limits)
    space.require_feasible()
    assert space.code_count > 1000 * spec.budget.candidates
    assert spec.macro().reduction <= task.resolution


def test_examples_cover_every_space_and_a_custom_one():
    macros = {read(path).macro().name for path in EXAMPLES}
    assert macros >= set(PRESETS)
    assert macros - set(PRESETS)
