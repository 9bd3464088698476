"""The choices of evolution as pure functions: parents, births, removals, and summaries of a population."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.dominance import Values, rank_and_crowding
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.rungs import on_highest_rung
from eatnas_db.domain.space import DigestLookup, Proposal, Space, list_changes
from eatnas_db.domain.states import Origin
from eatnas_db.domain.transfer import PerturbationLimits, perturb
from eatnas_db.errors import SpaceExhaustedError

GUIDED_RANDOM_BIRTHS: Final = 8
"""The number of initial births of a guided search from scratch; they are random samples."""
GUIDED_MIN_SCORES: Final = 4
"""A guided search without sources leaves births to evolution while fewer than this many scored births are visible."""

MODEL_STARTS: Final = 4
"""A search with `transfer.start: model` starts with this many of the best candidates of its sources."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the population; `joined` is the step at which it joined.

    `values` are the values of several objectives; greater values are better, and a search with one objective has none.
    """

    candidate_id: int
    birth: int
    joined: int
    fitness: float
    code: str
    values: Values = ()
    rung: int = 0
    """The last rung that the member was trained to; 0 without rungs."""


@dataclass(frozen=True, slots=True)
class InitialArchitecture:
    """The basic architecture whose perturbations are the initial population."""

    candidate_id: int | None
    """The id of the source search's candidate or, without a source, of birth 0 of this search; None while birth 0
    itself is being decided.
    """
    basic: Architecture
    before: Architecture
    """The architecture of the source search's candidate, before it was stretched for this task."""
    perturbation: PerturbationLimits


@dataclass(frozen=True, slots=True)
class BirthPrediction:
    """The prediction of the model for a guided birth; the table `prediction` describes the columns."""

    low: float
    middle: float
    high: float
    mean: float
    deviation: float
    improvement: float
    margin: float
    agreement: float
    scores: int
    model_births: int
    kernel: tuple[float, ...]
    noise: float
    slopes: tuple[float, ...] | None = None
    """The slope of each source, in the order of the sources; None without sources."""


@dataclass(frozen=True, slots=True)
class Birth:
    """A decided birth. `replica` numbers retrainings of one architecture; only a guided birth has a `prediction`."""

    number: int
    origin: Origin
    proposal: Proposal
    parent_id: int | None = None
    replica: int = 0
    prediction: BirthPrediction | None = None


@dataclass(frozen=True, slots=True)
class PopulationSummary:
    """Statistics of a population's fitness; all but `size` are None for an empty population.

    `spread` is the population standard deviation. The paper does not state its formula for quality. This package uses
    `mean - spread / sqrt(size)`, the mean minus its standard error. This quality rises when the members get better and
    when their fitness values move closer together.
    """

    size: int
    mean: float | None
    spread: float | None
    best: float | None
    quality: float | None


def count_initial_births(population: int, *, guided: bool, from_scratch: bool) -> int:
    """Return the number of births that are decided without any score."""
    return min(population, GUIDED_RANDOM_BIRTHS) if guided and from_scratch else population


def count_model_births(population: int, lag: int) -> tuple[int, int]:
    """For a search with `transfer.start: model`, return how many births start from candidates of the sources, and how
    many are random.

    The first `lag` births, at most the population, are decided without any score. If `lag` exceeds `MODEL_STARTS`, half
    of the additional births are random, to limit the harm of a source whose scores do not agree with the scores of this
    search.
    """
    births = min(population, max(MODEL_STARTS, lag))
    random = max(0, births - MODEL_STARTS) // 2
    return births - random, random


def rank(population: Sequence[Member]) -> list[Member]:
    """Sort by rung and by fitness, the fittest first; ties go to the older member.

    With several objectives, sort by front and crowding distance, as NSGA-II does.
    """
    by_age = sorted(population, key=lambda member: member.birth)
    if by_age and by_age[0].values:
        keys = rank_and_crowding([member.values for member in by_age])
        return [by_age[place] for place in sorted(range(len(by_age)), key=keys.__getitem__)]
    return sorted(by_age, key=lambda member: (-member.rung, -member.fitness))


def run_tournament(population: Sequence[Member], size: int, rng: KeyedRng) -> Member:
    """Return the fittest of `size` distinct random members; ties go to the older member."""
    ranks = rng.sample(len(population), min(size, len(population)))
    return rank(population)[min(ranks)]


def decide_birth(
    number: int,
    *,
    seed: int,
    population_size: int,
    tournament_size: int,
    population: Sequence[Member],
    space: Space,
    is_held: DigestLookup,
    initial: InitialArchitecture | None = None,
) -> Birth:
    """Decide birth `number` from the seed, the visible population and the networks that the search already holds.

    The first `population_size` births are random samples or, with `initial`, the basic architecture and its
    perturbations. Later births are mutations of the winner of a tournament. If each neighbour of the winner is either
    held or over the limits, the next tournament is run without this winner. If no member is left, the birth is a random
    sample. Raises `SpaceExhaustedError` if no sample is found either.
    """
    if number < population_size and initial is not None:
        return _decide_initial_birth(number, seed, initial, space, is_held)
    if number >= population_size:
        remaining = list(population)
        rng = KeyedRng(seed, "tournament", number)
        while remaining:
            parent = run_tournament(remaining, tournament_size, rng)
            try:
                proposal = space.mutate(space.parse(parent.code), KeyedRng(seed, "mutation", number), is_held)
            except SpaceExhaustedError:
                remaining.remove(parent)
                continue
            return Birth(number, Origin.MUTATION, proposal, parent.candidate_id)
    return Birth(number, Origin.RANDOM, space.sample(KeyedRng(seed, "sample", number), is_held))


def _decide_initial_birth(
    number: int, seed: int, initial: InitialArchitecture, space: Space, is_held: DigestLookup
) -> Birth:
    if number == 0:
        proposal = space.propose(initial.basic, *list_changes(initial.before, initial.basic))
        origin = Origin.IMPORTED if initial.candidate_id is None else Origin.BASIC
        return Birth(number, origin, proposal, initial.candidate_id)
    rng = KeyedRng(seed, "perturbation", number)
    proposal = perturb(initial.basic, space, initial.perturbation, rng, is_held)
    changes = list_changes(initial.before, proposal.architecture)
    return Birth(number, Origin.PERTURBATION, replace(proposal, changes=changes), initial.candidate_id)


def select_removed(population: Sequence[Member], limit: int, removal: str, *, seed: int, step: int) -> Member | None:
    """Return the member to remove from a population larger than `limit`, otherwise None.

    `removal` is `oldest` (the member that joined first), `worst` (the last member by `rank`) or `mixed` (the oldest or
    the worst member, chosen at random in each step).
    """
    if len(population) <= limit:
        return None
    if removal == "mixed":
        removal = ("oldest", "worst")[KeyedRng(seed, "removal", step).randbelow(2)]
    if removal == "worst":
        return rank(population)[-1]
    return min(population, key=lambda member: (member.joined, member.birth))


@dataclass(frozen=True, slots=True)
class Plateau:
    """The last quality that counted as a rise (`mark`), and the step of this rise (`since`)."""

    mark: float
    since: int


def update_plateau(before: Plateau | None, step: int, quality: float | None, flat_by: float) -> Plateau | None:
    """Return the plateau after a step. A quality that exceeds the mark by more than `flat_by` becomes the new mark.

    Callers leave out the steps before the first full population.
    """
    if quality is not None and (before is None or quality > before.mark + flat_by):
        return Plateau(quality, step)
    return before


def is_flat(plateau: Plateau | None, step: int, *, population: int, flat_steps: int) -> bool:
    """Return whether the last rise of quality is at least `flat_steps` steps ago.

    Quality counts as flat only after twice as many steps as the population has members: by then, every member could
    have been replaced once.
    """
    return plateau is not None and step >= 2 * population and step - plateau.since >= flat_steps


def _root_mean_square(values: Sequence[float]) -> float:
    try:
        return math.sqrt(math.fsum(value**2 for value in values) / len(values))
    except OverflowError:  # With a large exponent in the objective, the squares of the values may overflow.
        largest = max(map(abs, values))
        return largest * math.sqrt(math.fsum((value / largest) ** 2 for value in values) / len(values))


def summarize(fitnesses: Sequence[float]) -> PopulationSummary:
    """Summarize the fitness values of a population. Exact sums make their order irrelevant."""
    size = len(fitnesses)
    if not size:
        return PopulationSummary(size=0, mean=None, spread=None, best=None, quality=None)
    mean = math.fsum(fitnesses) / size
    spread = _root_mean_square([value - mean for value in fitnesses])
    quality = mean - spread / math.sqrt(size)
    return PopulationSummary(size=size, mean=mean, spread=spread, best=max(fitnesses), quality=quality)


def summarize_population(population: Sequence[Member]) -> PopulationSummary:
    """Summarize the fitness of the members on the highest rung; `size` counts all members."""
    comparable = [member.fitness for member in on_highest_rung(population)]
    return replace(summarize(comparable), size=len(population))
