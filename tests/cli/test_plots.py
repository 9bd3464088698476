"""Plots as image files, and curves in the terminal."""

import subprocess
import sys

import pytest

from eatnas_db.errors import ConflictError
from eatnas_db.queries.compute_curves import ComputeCurve, CurvePoint
from eatnas_db.queries.lineage import LineageEntry, ScoredBirth
from eatnas_db.queries.pareto import Tradeoff
from eatnas_db.queries.primitives import PRIMITIVES, PrimitiveShare
from eatnas_db.queries.quality import PopulationStep
from eatnas_report import lineage_plot, plots, primitives_plot, sampling
from eatnas_report.terminal import draw_curves, draw_quality_curve

STEPS = [PopulationStep(number, 4, 0.5 + number / 100, 0.02, 0.6, 0.5, 3.0 * number, 1.0) for number in range(1, 31)]
EMPTY = PopulationStep(1, 0, None, None, None, None, 1.0, 1.0)
CURVES = [
    ComputeCurve("one", 0.0, (CurvePoint(1, 2.0, 0.5), CurvePoint(2, 4.0, 0.7))),
    ComputeCurve("ten", 1.0, (CurvePoint(1, 9.0, 0.6),)),
]
FRONT = [Tradeoff(1, 0, 0.7, 0.7, 100, 2000, "random", "c"), Tradeoff(2, 1, 0.9, 0.9, 300, 9000, "random", "c")]


def has_colours(file):
    """Return whether an image has several colours, which means that it is not empty."""
    from matplotlib.image import imread

    image = imread(file)
    return image.shape[0] > 200 and len({tuple(pixel) for row in image[::7, ::7] for pixel in row}) > 5


@pytest.mark.parametrize("over_compute", [False, True])
@pytest.mark.parametrize("steps", [STEPS, [EMPTY, *STEPS[1:]], STEPS[:1]], ids=["many", "one empty", "one"])
def test_quality_is_drawn(tmp_path, steps, over_compute):
    plots.draw_quality(tmp_path / "q.png", "digits", steps, over_compute=over_compute)
    assert has_colours(tmp_path / "q.png")


def test_compute_curves_and_fronts_are_drawn(tmp_path):
    plots.draw_compute_curves(tmp_path / "c.png", CURVES, "quality")
    plots.draw_front(tmp_path / "f.png", "digits", "mult_adds", FRONT, FRONT)
    assert has_colours(tmp_path / "c.png")
    assert has_colours(tmp_path / "f.png")


def test_line_of_descent_and_family_are_drawn(tmp_path):
    line = [
        LineageEntry(3, "large", 2, 0, 1, "mutation", "pending", None, None, (), "c"),
        LineageEntry(2, "large", 1, 1, 0, "basic", "scored", 0.5, None, ("block 5 kernel 3 → 7",), "c"),
        LineageEntry(1, "small", None, 2, 4, "random", "scored", 0.7, None, (), "c"),
    ]
    sister = LineageEntry(4, "large", 1, 1, 2, "mutation", "scored", 0.8, None, ("block 1 skip no → yes",), "c")
    births = [ScoredBirth("small", 2, 0.6), ScoredBirth("small", 4, 0.7), ScoredBirth("large", 0, 0.5)]
    lineage_plot.draw_lineage(tmp_path / "line.png", line, births)
    lineage_plot.draw_lineage(tmp_path / "family.png", [*line, sister], births)
    lineage_plot.draw_lineage(tmp_path / "unscored.png", line[:1])
    assert has_colours(tmp_path / "line.png")
    assert has_colours(tmp_path / "family.png")
    assert (tmp_path / "unscored.png").exists()


def test_primitives_are_drawn(tmp_path):
    values = [
        PrimitiveShare(step, 1, primitive, value, 2, share, 0.5)
        for step in (5, 10)
        for primitive in PRIMITIVES
        for value, share in (("a", step / 10), ("b", 1 - step / 10))
    ]
    primitives_plot.draw_primitives(tmp_path / "primitives.png", "small", values)
    primitives_plot.draw_primitives(tmp_path / "empty.png", "small", [])
    assert has_colours(tmp_path / "primitives.png")
    assert (tmp_path / "empty.png").exists()


def test_line_of_descent_shows_mutations_and_gains(tmp_path):
    changes = ("block 5 kernel 3 → 7", "block 6 width 0.5 → 2.0")
    line = [
        LineageEntry(2, "large", 1, 0, 3, "mutation", "scored", 0.75, 0.05, changes, "c"),
        LineageEntry(1, "large", None, 1, 0, "random", "scored", 0.7, None, (), "c"),
    ]
    lineage_plot.draw_lineage(tmp_path / "line.svg", line)
    # matplotlib draws letters as outlines, and writes the text in a comment above the outlines.
    svg = (tmp_path / "line.svg").read_text()
    title = "Ancestors of candidate 2 (fitness 0.7500): 1 mutation from a random network"
    for text in (", ".join(changes), "random sample", "0.7500", "+0.0500", title):
        assert f"<!-- {text} -->" in svg


def test_long_names_and_many_mutations_stay_readable(tmp_path):
    changes = ("block 4 op sep → mb6", "block 4 kernel 3 → 7", "block 4 skip no → yes")
    name = "fashion-mnist-with-larger-images-and-wider-networks"
    line = [
        LineageEntry(2, name, 1, 0, 3, "mutation", "scored", 0.75, 0.05, changes, "c"),
        LineageEntry(1, f"{name}-small", None, 1, 3, "random", "scored", 0.7, None, (), "c"),
    ]
    lineage_plot.draw_lineage(tmp_path / "line.svg", line)
    svg = (tmp_path / "line.svg").read_text()
    for text in ("block 4 op sep → mb6, block 4 kernel 3 → 7,", "block 4 skip no → yes"):
        assert f"<!-- {text} -->" in svg
    assert "<!-- fashion-mnist-…ider-networks -->" in svg


def test_plot_of_an_empty_population_is_valid(tmp_path):
    plots.draw_quality(tmp_path / "q.svg", "digits", [EMPTY], over_compute=False)
    assert (tmp_path / "q.svg").read_text().rstrip().endswith("</svg>")


def test_unsupported_image_format_is_refused(tmp_path):
    with pytest.raises(ConflictError, match=r"unsupported image format; .* ends in \.png"):
        plots.draw_compute_curves(tmp_path / "c.doc", CURVES, "quality")


def test_samples_keep_both_ends():
    sample = sampling.sample_evenly(range(100_000), 50)
    assert (len(sample), sample[0], sample[-1]) == (50, 0, 99_999)
    assert sampling.sample_evenly([1, 2, 3], 50) == [1, 2, 3]


def test_rising_line_goes_from_corner_to_corner():
    assert draw_curves([[(0.0, 0.0), (10.0, 1.0)]], width=10, height=3, across="to").splitlines() == [
        "1.0000 ┤⠀⠀⠀⠀⠀⠀⢀⡠⠔⠊",
        "       ┤⠀⠀⠀⢀⠤⠒⠁",
        "0.0000 ┤⡠⠔⠊⠁",
        "       └──────────",
        "        0   to  10",
    ]


@pytest.mark.parametrize("curve", [[(1.0, 2.0)], [(1.0, 2.0), (2.0, 2.0)], [(1.0, 1.0), (1.0, 2.0)]])
def test_curves_without_extent_are_drawn(curve):
    assert any("⠀" < character <= "⣿" for character in draw_curves([curve]))


def test_quality_curve_shows_axis_title_and_last_values():
    text = draw_quality_curve(STEPS, over_compute=True)
    assert "device seconds" in text
    assert text.endswith("upper curve: best 0.6000; lower curve: mean 0.8000 ± 0.0200")
    assert max(map(len, text.splitlines())) <= 80
    assert draw_quality_curve([EMPTY], over_compute=False) == "no data yet"


def test_matplotlib_is_imported_only_for_image_files():
    code = "import sys, eatnas_report.terminal, eatnas_cli.query.quality; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
