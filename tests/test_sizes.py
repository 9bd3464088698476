"""Sizes and names: modules, classes and tests stay small, and names of classes are unique."""

import ast
import functools
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE_ROOTS = ("eatnas_db", "daemon", "cli", "migrations")
MODULES = sorted(module for top in SOURCE_ROOTS for module in (ROOT / top).rglob("*.py"))
MAXIMUM_MODULE_LINES = 400
MAXIMUM_CLASS_LINES = 250
MAXIMUM_TEST_NAME_WORDS = 10


def largest(sizes: dict[str, int]) -> str:
    """Return the ten largest sizes, one on each line, and print them."""
    lines = [f"{size:5} {name}" for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:10]]
    print("\n".join(lines))
    return "\n".join(lines)


@functools.cache
def classes_in(module: Path) -> list[ast.ClassDef]:
    return [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ClassDef)]


def test_no_module_is_too_long():
    sizes = {str(module.relative_to(ROOT)): len(module.read_text().splitlines()) for module in MODULES}
    assert max(sizes.values()) <= MAXIMUM_MODULE_LINES, largest(sizes)
    largest(sizes)


def test_no_class_is_too_long():
    sizes = {
        f"{module.relative_to(ROOT)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module in MODULES
        for node in classes_in(module)
    }
    assert max(sizes.values()) <= MAXIMUM_CLASS_LINES, largest(sizes)
    largest(sizes)


def test_each_class_name_is_used_once():
    names = Counter(node.name for module in MODULES for node in classes_in(module))
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_test_names_are_short():
    long = [
        f"{file.name}::{node.name}"
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and len(node.name.split("_")) - 1 > MAXIMUM_TEST_NAME_WORDS
    ]
    assert long == []
