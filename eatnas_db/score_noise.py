"""Compare the noise of repeated trainings with the spread of a population, to judge the reliability of one score."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select

from eatnas_db.domain.objective import Objective
from eatnas_db.domain.recipe import without_timing
from eatnas_db.domain.states import Origin, SearchKind
from eatnas_db.queries.searches import SearchRecord, list_searches
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search, step
from eatnas_db.spaces import read_space

CONFIDENCE: Final = 1.645
"""A difference of this many standard errors has the right sign in 95% of all cases."""
MAX_SEEDS: Final = 1000
LATE: Final = 2
"""A population counts as late after this many births, in multiples of its size."""
MIN_POPULATION: Final = 4
"""The minimum number of members of a population whose spread is meaningful."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """The parts of a planned search that decide which finished searches are comparable to the plan."""

    primitives: Sequence[Mapping[str, Any]]
    """The primitives of each block with their values."""
    objective: Objective
    task: Mapping[str, Any]
    data_digest: str
    training: Mapping[str, Any]

    def has_same_primitives(self, record: SearchRecord) -> bool:
        """Return whether a search has the same primitives and metric as the plan."""
        theirs = record.objective
        if record.objectives or (theirs.metric, theirs.direction) != (self.objective.metric, self.objective.direction):
            return False
        found = read_space(record.macro).blocks
        return [_as_lists(block) for block in found] == [_as_lists(block) for block in self.primitives]

    def has_same_task(self, record: SearchRecord) -> bool:
        """Return whether a search has the same images, with the same shape, as the plan."""
        return record.data_digest == self.data_digest and dict(record.task) == dict(self.task)

    def has_same_recipe(self, record: SearchRecord) -> bool:
        """Return whether a search has the same task and recipe as the plan."""
        return self.has_same_task(record) and without_timing(record.spec["training"]) == without_timing(self.training)


@dataclass(frozen=True, slots=True)
class ScoreNoise:
    """The noise of one score, estimated from networks that were trained several times.

    `deviation` is the standard deviation of the scores of one network, pooled over `networks` networks that were
    trained `trainings` times in total. `same_task` is true if the networks were trained on the planned task with the
    planned recipe.
    """

    deviation: float
    networks: int
    trainings: int
    searches: tuple[str, ...]
    same_task: bool


@dataclass(frozen=True, slots=True)
class PopulationSpread:
    """The mean standard deviation of fitness in the last populations of searches.

    `late` is true if each member could have been replaced at least once. Otherwise, the populations are initial ones,
    whose fitness varies more.
    """

    deviation: float
    searches: tuple[str, ...]
    same_task: bool
    late: bool


@dataclass(frozen=True, slots=True)
class Resolution:
    """The resolution of scores: whether they can distinguish the networks of a late population."""

    ratio: float
    """The noise of one score, as a multiple of the spread."""
    seeds: int
    """The number of trainings per network with which a difference of one spread has the right sign in 95% of cases."""


def list_comparable(connection: Connection, plan: PlannedTask) -> list[SearchRecord]:
    """Return the searches that decide their own births, have a score, and have the primitives and the metric of the
    plan.
    """
    return [
        record
        for record in list_searches(connection)
        if record.kind in (SearchKind.EVOLUTION, SearchKind.IMPORTED)
        and record.scored
        and not record.is_damaged
        and plan.has_same_primitives(record)
    ]


def estimate_noise(connection: Connection, plan: PlannedTask, searches: Sequence[SearchRecord]) -> ScoreNoise | None:
    """Estimate the noise from re-evaluations of those `searches` that have the planned task and recipe, or else of all
    `searches`.
    """
    exact = [record for record in searches if plan.has_same_recipe(record)]
    return _estimate_noise(connection, exact, same_task=True) or _estimate_noise(connection, searches, same_task=False)


def estimate_spread(
    connection: Connection, plan: PlannedTask, searches: Sequence[SearchRecord]
) -> PopulationSpread | None:
    """Estimate the spread of a late population from those `searches` that have the planned task and recipe, or else
    from all.
    """
    exact = [record for record in searches if plan.has_same_recipe(record)]
    return _estimate_spread(connection, exact, same_task=True) or _estimate_spread(
        connection, searches, same_task=False
    )


def compute_resolution(noise: ScoreNoise, spread: PopulationSpread) -> Resolution | None:
    """Return the resolution that this noise allows in populations of this spread; None if the spread is 0."""
    if spread.deviation == 0:
        return None
    ratio = noise.deviation / spread.deviation
    # The factor is 2 because the difference of two means has twice the variance of one mean.
    return Resolution(ratio, min(MAX_SEEDS, max(1, math.ceil(2 * (CONFIDENCE * ratio) ** 2))))


def _estimate_noise(connection: Connection, searches: Sequence[SearchRecord], *, same_task: bool) -> ScoreNoise | None:
    names = {record.id: record.name for record in searches}
    retrained = candidate.alias("retrained")
    query = (
        select(candidate.c.search_id, retrained.c.search_id, retrained.c.parent_id, retrained.c.fitness)
        .join(retrained, retrained.c.parent_id == candidate.c.id)
        .where(
            candidate.c.search_id.in_(tuple(names)),
            retrained.c.origin == Origin.REEVALUATION,
            retrained.c.fitness.is_not(None),
        )
    )
    # Also group by re-evaluation, because re-evaluations may differ in their epochs.
    groups: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for *key, fitness in connection.execute(query):
        groups[key[0], key[1], key[2]].append(fitness)
    repeated = {key: values for key, values in groups.items() if len(values) > 1}
    freedom = sum(len(values) - 1 for values in repeated.values())
    if not freedom:
        return None
    squares = math.fsum(
        (value - math.fsum(values) / len(values)) ** 2 for values in repeated.values() for value in values
    )
    return ScoreNoise(
        deviation=math.sqrt(squares / freedom),
        networks=len(repeated),
        trainings=sum(map(len, repeated.values())),
        searches=tuple(sorted({names[key[0]] for key in repeated})),
        same_task=same_task,
    )


def _estimate_spread(
    connection: Connection, searches: Sequence[SearchRecord], *, same_task: bool
) -> PopulationSpread | None:
    late = [record for record in searches if record.settled >= LATE * record.population]
    early = [record for record in searches if record.settled >= MIN_POPULATION]
    chosen = {record.id: record for record in late or early}
    last = (
        select(step.c.search_id, step.c.spread)
        .join(search, search.c.id == step.c.search_id)
        .where(step.c.search_id.in_(tuple(chosen)), step.c.number == search.c.settled, step.c.size >= MIN_POPULATION)
    )
    spreads = {row.search_id: row.spread for row in connection.execute(last) if row.spread is not None}
    if not spreads:
        return None
    names = tuple(sorted(chosen[search_id].name for search_id in spreads))
    return PopulationSpread(math.fsum(spreads.values()) / len(spreads), names, same_task, bool(late))


def _as_lists(block: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: list(values) for name, values in block.items()}
