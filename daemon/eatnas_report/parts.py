"""The parts of a report: their titles, and the values that their templates show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from eatnas_db.domain.macro import Task
from eatnas_db.domain.states import SearchKind
from eatnas_db.queries.searches import SearchRecord
from eatnas_report import tables
from eatnas_report.architecture_drawing import draw_architecture
from eatnas_report.data import ReportData, ReportPart
from eatnas_report.figures.learning import learning_figures
from eatnas_report.figures.lineage import lineage_figures
from eatnas_report.figures.objectives import objective_figures
from eatnas_report.figures.population import explain_no_front, front_figures, primitive_figures, quality_figures
from eatnas_report.figures.predictions import prediction_figures
from eatnas_report.figures.training import failure_figures, utilisation_figures


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawing of an architecture, with its caption."""

    svg: Markup
    caption: str


@dataclass(frozen=True, slots=True)
class PartContent:
    """The title of a part, and a function that returns the values for its template `part_….html.jinja`."""

    title: str
    values: Callable[[ReportData], dict[str, Any]]


PARTS: Final[Mapping[ReportPart, PartContent]] = {
    ReportPart.OVERVIEW: PartContent("Overview", lambda data: {"overview": tables.overview(data)}),
    ReportPart.QUALITY: PartContent("Population quality", lambda data: {"quality": quality_figures(data)}),
    ReportPart.CURVES: PartContent("Learning curves", lambda data: {"curves": learning_figures(data)}),
    ReportPart.FRONT: PartContent(
        "Accuracy and mult-adds", lambda data: {"front": front_figures(data), "no_front": explain_no_front(data)}
    ),
    ReportPart.OBJECTIVES: PartContent(
        "Objectives",
        lambda data: {
            "objectives": objective_figures(data),
            "objective_front_table": tables.objective_front_table(data),
        },
    ),
    ReportPart.TOP: PartContent("Best candidates", lambda data: {"top_table": tables.top_table(data)}),
    ReportPart.ARCHITECTURES: PartContent(
        "Best architectures", lambda data: {"architectures": draw_best_architectures(data)}
    ),
    ReportPart.LINEAGE: PartContent(
        "Ancestors of the best candidate",
        lambda data: {"lineage": lineage_figures(data), "lineage_table": tables.lineage_table(data)},
    ),
    ReportPart.PREDICTIONS: PartContent("Predictions", lambda data: {"predictions": prediction_figures(data)}),
    ReportPart.PRIMITIVES: PartContent("Primitives over time", lambda data: {"primitives": primitive_figures(data)}),
    ReportPart.FAILURES: PartContent(
        "Failures", lambda data: {"failures": failure_figures(data), "failure_table": tables.failure_table(data)}
    ),
    ReportPart.UTILISATION: PartContent(
        "Utilisation",
        lambda data: {
            "utilisation": utilisation_figures(data),
            "time_table": tables.time_table(data),
            "slot_time_table": tables.slot_time_table(data),
        },
    ),
    ReportPart.SPECIFICATION: PartContent("Specification", lambda data: {"spec_tables": tables.spec_tables(data)}),
    ReportPart.VERSIONS: PartContent("Software versions", lambda data: {"version_table": tables.version_table(data)}),
}


@dataclass(frozen=True, slots=True)
class FilledPart:
    """A part with the values that its template shows."""

    part: ReportPart
    values: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The heading of the part."""
        return PARTS[self.part].title

    @property
    def template(self) -> str:
        """The file of the template."""
        return f"part_{self.part}.html.jinja"


def may_have_part(part: ReportPart, search: SearchRecord) -> bool:
    """Return whether a search of this kind has a part."""
    if part is ReportPart.OBJECTIVES:
        return bool(search.objectives)
    if part is ReportPart.PREDICTIONS:
        return search.kind == SearchKind.EVOLUTION and search.spec["evolution"].get("births") == "guided"
    return True


def fill_part(part: ReportPart, data: ReportData) -> FilledPart | None:
    """Return a part with its values, or None if this kind of search does not have the part."""
    return FilledPart(part, PARTS[part].values(data)) if may_have_part(part, data.search) else None


def draw_best_architectures(data: ReportData) -> list[Drawing]:
    """Draw the networks of the best candidates."""
    task = Task(**data.search.task)
    drawings = []
    for place, candidate in enumerate(data.top, 1):
        if (genotype := data.genotypes.get(candidate.id)) is not None:
            title = f"candidate {candidate.id}, birth {candidate.birth}"
            svg = draw_architecture(genotype, data.search.macro, task, title)
            caption = f"Number {place}: fitness {candidate.fitness:.4f}, {candidate.params:,} parameters, "
            caption += f"{candidate.mult_adds:,} mult-adds. "
            caption += "A longer bar means more channels, and a taller stack means more layers."
            drawings.append(Drawing(Markup(svg), caption))  # noqa: S704 - a template of this package escaped it
    return drawings
