"""Evolution's choices, pure: who breeds, who leaves, what a birth is, how a population is summed up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Held, Proposal, Space, differences
from eatnas_db.domain.states import Origin
from eatnas_db.domain.transfer import Perturbation, perturbed
from eatnas_db.errors import SpaceExhaustedError


@dataclass(frozen=True, slots=True)
class Member:
    """A living candidate as breeding sees it."""

    candidate_id: int
    birth: int
    joined: int
    fitness: float
    code: str


@dataclass(frozen=True, slots=True)
class InitialArchitecture:
    """What an initial population grows from: a candidate of another search, or an architecture of the user's own.

    `candidate_id`: the other search's, or the one that birth 0 made here (None before it). `before`: the other's
    own architecture, before it was stretched for this task.
    """

    candidate_id: int | None
    basic: Architecture
    before: Architecture
    strength: Perturbation


@dataclass(frozen=True, slots=True)
class Birth:
    """A decided birth: where it comes from and what it is."""

    number: int
    origin: Origin
    proposal: Proposal
    parent_id: int | None = None


@dataclass(frozen=True, slots=True)
class PopulationSummary:
    """A population in a few numbers; `quality` is the mean fitness less its spread over the mean's root.

    No source states the paper's formula. Ours, `mean - spread / sqrt(size)`, is the lower edge of the mean's
    standard error: it rises when the population gets better and when it agrees.
    """

    size: int
    mean: float | None
    spread: float | None
    best: float | None
    quality: float | None


def ranked(population: Sequence[Member]) -> list[Member]:
    """The fittest first; of equals the elder."""
    return sorted(population, key=lambda member: (-member.fitness, member.birth))


def tournament(population: Sequence[Member], size: int, chance: KeyedRng) -> Member:
    """The winner of `size` distinct members drawn at random: the fittest, of equals the elder."""
    ranks = chance.distinct(len(population), min(size, len(population)))
    return ranked(population)[min(ranks)]


def decide_birth(
    number: int,
    *,
    seed: int,
    population_size: int,
    tournament_size: int,
    population: Sequence[Member],
    space: Space,
    held: Held,
    seedling: InitialArchitecture | None = None,
) -> Birth:
    """Birth `number`, a pure function of the seed, the population it may see and what the search holds.

    The first `population_size` births are random samples, or with a `seedling` the basic architecture and its
    perturbations. A birth that finds nobody alive is a random sample. A parent all of
    whose neighbours are taken or over the limits gives way to another tournament; when every member has,
    the birth is a random sample. Raises `SpaceExhaustedError` when there is none either.
    """
    if number < population_size and seedling is not None:
        return _transferred(number, seed, seedling, space, held)
    if number >= population_size:
        remaining = list(population)
        chance = KeyedRng(seed, "tournament", number)
        while remaining:
            parent = tournament(remaining, tournament_size, chance)
            try:
                proposal = space.mutate(Architecture.parse(parent.code), KeyedRng(seed, "mutation", number), held)
            except SpaceExhaustedError:
                remaining.remove(parent)
                continue
            return Birth(number, Origin.MUTATION, proposal, parent.candidate_id)
    return Birth(number, Origin.RANDOM, space.sample(KeyedRng(seed, "sample", number), held))


def _transferred(number: int, seed: int, seedling: InitialArchitecture, space: Space, held: Held) -> Birth:
    if number == 0:
        proposal = space.propose(seedling.basic, *differences(seedling.before, seedling.basic))
        origin = Origin.IMPORTED if seedling.candidate_id is None else Origin.BASIC
        return Birth(number, origin, proposal, seedling.candidate_id)
    chance = KeyedRng(seed, "perturbation", number)
    proposal = perturbed(seedling.basic, space, seedling.strength, chance, held)
    changes = differences(seedling.before, proposal.architecture)
    return Birth(number, Origin.PERTURBATION, replace(proposal, changes=changes), seedling.candidate_id)


def select_removed(population: Sequence[Member], limit: int, removal: str, *, seed: int, step: int) -> Member | None:
    """Who leaves a population that has grown over `limit`: the oldest, the worst, or either by a coin."""
    if len(population) <= limit:
        return None
    if removal == "mixed":
        removal = ("oldest", "worst")[KeyedRng(seed, "removal", step).below(2)]
    if removal == "worst":
        return ranked(population)[-1]
    return min(population, key=lambda member: (member.joined, member.birth))


@dataclass(frozen=True, slots=True)
class Plateau:
    """Whether quality still rises: its `mark`, the last value that counted as a rise, and the step `since` then."""

    mark: float
    since: int


def update_plateau(before: Plateau | None, step: int, quality: float | None, flat_by: float) -> Plateau | None:
    """The watch after a step: a quality that is over the mark by more than `flat_by` is the new mark.

    A fold of the steps' qualities, from the first step of a whole population on, and of nothing else.
    """
    if quality is not None and (before is None or quality > before.mark + flat_by):
        return Plateau(quality, step)
    return before


def is_flat(watch: Plateau | None, step: int, *, population: int, flat_steps: int) -> bool:
    """Whether so many steps went by without a rise; never before each member could have been renewed once."""
    return watch is not None and step >= 2 * population and step - watch.since >= flat_steps


def summarize(fitnesses: Sequence[float]) -> PopulationSummary:
    """Size, mean, spread (population standard deviation), best and quality."""
    if not fitnesses:
        return PopulationSummary(0, None, None, None, None)
    size = len(fitnesses)
    mean = math.fsum(fitnesses) / size
    spread = math.sqrt(math.fsum((fitness - mean) ** 2 for fitness in fitnesses) / size)
    quality = mean - spread / math.sqrt(size)
    return PopulationSummary(size, mean, spread, max(fitnesses), quality)
