"""Draw the packages and their imports, as found in the code, to docs/pictures/architecture.svg.

python docs/pictures/architecture.py
"""

from __future__ import annotations

import ast
from itertools import product
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[2]
TARGET = Path(__file__).with_name("architecture.svg")
BOX_WIDTH, BOX_HEIGHT = 2.5, 0.8
BLUE, GREY = "#0072B2", "#666666"
# Package: folder, left edge, lower edge, caption.
PACKAGES = {
    "eatnas_cli": ("cli/eatnas_cli", 2.9, 4.2, "the command line"),
    "eatnas_daemon": ("daemon/eatnas_daemon", 0.2, 2.8, "supervisor, devices, MLflow"),
    "eatnas_report": ("daemon/eatnas_report", 5.6, 2.8, "pictures and the report"),
    "eatnas_protocol": ("daemon/eatnas_protocol", -2.5, 1.4, "messages between processes"),
    "eatnas_training": ("daemon/eatnas_training", -2.5, 2.8, "the worker process"),
    "eatnas_migrations": ("migrations", 5.6, 0, "schema versions"),
    "eatnas_db": ("eatnas_db", 2.9, 1.4, "the record and its queries"),
    "eatnas_db.domain": ("eatnas_db/domain", 0.2, 0, "pure decisions"),
}


def package_of(module: str) -> str | None:
    """Return the drawn package that contains a module."""
    names = [name for name in PACKAGES if module == name or module.startswith(f"{name}.")]
    return max(names, key=len, default=None)


def modules_of(package: str) -> list[Path]:
    """Return the modules of a package, without those of its subpackages that have boxes of their own."""
    folder = ROOT / PACKAGES[package][0]
    others = [ROOT / PACKAGES[name][0] for name in PACKAGES if name.startswith(f"{package}.")]
    return [path for path in folder.rglob("*.py") if not any(path.is_relative_to(other) for other in others)]


def imports_of(module: Path) -> set[str]:
    """Return the names of the modules that a module imports, also inside functions."""
    nodes = list(ast.walk(ast.parse(module.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def edges() -> dict[tuple[str, str], int]:
    """Return, for each pair of packages, the number of modules of the first that import the second."""
    counts = dict.fromkeys(product(PACKAGES, PACKAGES), 0)
    for package in PACKAGES:
        for module in modules_of(package):
            for target in {package_of(name) for name in imports_of(module)} - {None, package}:
                counts[package, str(target)] += 1
    return {pair: count for pair, count in counts.items() if count}


def draw() -> None:
    """Draw a box for each package and an arrow for each import; thicker arrows stand for more importing modules."""
    mpl.rcParams["svg.hashsalt"] = "eatnas-db"
    figure, axes = plt.subplots(figsize=(10, 5.4), layout="constrained")
    boxes = {}
    for name, (_, left, low, text) in PACKAGES.items():
        modules = modules_of(name)
        lines = sum(len(module.read_text().splitlines()) for module in modules)
        box = plt.Rectangle(
            (left, low), BOX_WIDTH, BOX_HEIGHT, facecolor="white", edgecolor=BLUE, linewidth=1.4, zorder=2
        )
        boxes[name] = axes.add_patch(box)
        middle = left + BOX_WIDTH / 2
        text_style = {"ha": "center", "va": "center", "zorder": 3}
        axes.text(middle, low + 0.6, name, weight="bold", fontsize=10, **text_style)
        axes.text(middle, low + 0.37, text, fontsize=8.5, **text_style)
        axes.text(middle, low + 0.15, f"{len(modules)} modules, {lines:,} lines", fontsize=7, color=GREY, **text_style)
    for (source, target), count in edges().items():
        if PACKAGES[source][2] < PACKAGES[target][2]:
            continue  # Omit imports of `eatnas_db.errors`: every package may raise its errors.
        arrow = {"arrowstyle": "-|>", "color": GREY, "linewidth": 0.6 + count / 30, "shrinkA": 0, "shrinkB": 2}
        ends = {"patchA": boxes[source], "patchB": boxes[target]}
        centres = [
            (box.get_x() + BOX_WIDTH / 2, box.get_y() + BOX_HEIGHT / 2) for box in (boxes[target], boxes[source])
        ]
        axes.annotate("", *centres, zorder=1, arrowprops=arrow | ends)
    axes.set_xlim(-2.6, 8.2)
    axes.set_ylim(-0.1, 5.1)
    axes.axis("off")
    figure.savefig(TARGET, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw()
