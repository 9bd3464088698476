"""Reserve space on the live page for figures that are not drawn yet, so that the content below does not move later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from eatnas_db.queries.searches import SearchRecord
from eatnas_report.architecture_drawing import drawing_height, is_macro
from eatnas_report.data import DRAWN_ARCHITECTURES, TOP_CANDIDATES, ReportPart
from eatnas_report.figures.figure import FIGURE_HEIGHT
from eatnas_report.figures.lineage import LINEAGE_HEIGHT
from eatnas_report.figures.population import FRONT_HEIGHT, primitive_height
from eatnas_report.formats import flatten

VALUES_IN_USE: Final = {"op": 3, "kernel": 3, "depth": 3, "width": 3, "skip": 2}
"""For each primitive, the assumed number of its values that a population has in each block."""
BLOCKS_OF_OTHER_SPACES: Final = 6


@dataclass(frozen=True, slots=True)
class ReservedFigure:
    """The space reserved for a figure. `height` is in pixels or, for a drawing, in units of 1/640 of its width."""

    height: int
    half_width: bool = True
    is_drawing: bool = False


@dataclass(frozen=True, slots=True)
class ReservedSpace:
    """The space reserved for the figures of a part, and for a table with the given number of rows."""

    figures: tuple[ReservedFigure, ...] = ()
    rows: int = 0


def reserve_space(part: ReportPart, search: SearchRecord) -> ReservedSpace:
    """Return the approximate space that a part takes once the search has scored candidates."""
    blocks = len(search.macro["strides"]) if is_macro(search.macro) else BLOCKS_OF_OTHER_SPACES
    half = ReservedFigure(FIGURE_HEIGHT)
    match part:
        case ReportPart.QUALITY:
            return ReservedSpace((half, half))
        case ReportPart.CURVES:
            return ReservedSpace((half, half, half))
        case ReportPart.FRONT:
            return ReservedSpace((ReservedFigure(FRONT_HEIGHT, half_width=False),))
        case ReportPart.OBJECTIVES:
            others = len(search.objectives) - 1
            return ReservedSpace((ReservedFigure(FIGURE_HEIGHT, half_width=others > 1),) * others)
        case ReportPart.TOP:
            return ReservedSpace(rows=1 + min(TOP_CANDIDATES, search.scored))
        case ReportPart.ARCHITECTURES:
            return ReservedSpace((ReservedFigure(drawing_height(blocks), is_drawing=True),) * DRAWN_ARCHITECTURES)
        case ReportPart.LINEAGE:
            return ReservedSpace((ReservedFigure(LINEAGE_HEIGHT, half_width=False),), rows=2)
        case ReportPart.PRIMITIVES if is_macro(search.macro):
            heights = [primitive_height(blocks * count) for count in VALUES_IN_USE.values()]
            return ReservedSpace(tuple(map(ReservedFigure, heights)))
        case ReportPart.PRIMITIVES:
            return ReservedSpace((half, half))
        case ReportPart.PREDICTIONS:
            return ReservedSpace((ReservedFigure(FIGURE_HEIGHT, half_width=False),))
        case ReportPart.UTILISATION:
            return ReservedSpace((ReservedFigure(FIGURE_HEIGHT // 2, half_width=False),), rows=6)
        case ReportPart.SPECIFICATION:
            return ReservedSpace(rows=1 + len(flatten(search.spec)) // 2)
        case ReportPart.OVERVIEW | ReportPart.FAILURES | ReportPart.VERSIONS:
            return ReservedSpace(rows=2)
