"""Write the Markdown descriptions of experiments and of searches' runs for MLflow's pages."""

from __future__ import annotations

from collections.abc import Sequence

from eatnas_db.queries.ranking import RankedCandidate
from eatnas_db.queries.searches import SearchRecord


def introduce(search: SearchRecord) -> str:
    """Describe a search in one sentence."""
    data = search.spec["data"]["name"]
    return f"Search {search.name}: {space_name(search)} on {data}, seed {search.seed}, written by eatnas-db."


def describe_progress(
    search: SearchRecord,
    best: RankedCandidate | None,
    best_run: str | None,
    experiment_id: str,
    step_metrics: Sequence[str],
) -> str:
    """Describe a search, its progress, its best candidate, and the contents of its run."""
    paragraphs = [
        introduce(search),
        f"{search.status}, {search.settled} of {search.budget_candidates} births settled.",
    ]
    if best is not None:
        name = f"candidate {best.id}, birth {best.birth}"
        link = name if best_run is None else link_to_run(name, experiment_id, best_run)
        measure = "score" if best.reevaluation is None else "reevaluation"
        value = best.fitness if best.reevaluation is None else best.reevaluation
        paragraphs.append(f"Best by {measure}: {link}, {value:.4f}.")
    paragraphs.append(
        f"The metrics {', '.join(step_metrics)} describe the population after each step. "
        "The artifacts hold plots and a report, which are updated while the search runs."
    )
    return "\n\n".join(paragraphs)


def link_to_run(text: str, experiment_id: str, run_id: str) -> str:
    """Return a Markdown link to a run's page in MLflow."""
    return f"[{text}](#/experiments/{experiment_id}/runs/{run_id})"


def space_name(search: SearchRecord) -> str:
    """Return the name of a search's space, or `custom space` if the spec defines the space itself."""
    space = search.spec["space"]
    return space if isinstance(space, str) else "custom space"
