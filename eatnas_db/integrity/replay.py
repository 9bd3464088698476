"""Replay every search from its record: births, parents, removals and fitness follow from spec, seed and scores.

Settled births never change, so a running search can be replayed up to its last settled birth.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sqlalchemy import Connection, Engine, and_, exists, func, select

from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.evolution import InitialArchitecture, Member, decide_birth, select_removed, summarize_population
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import MULT_ADDS, PARAMS, TEST_ACCURACY, Limits, Objective
from eatnas_db.domain.objectives import (
    choose_reference,
    list_objectives,
    orient_values,
    relative_hypervolume,
    select_values,
)
from eatnas_db.domain.rungs import rungs_of
from eatnas_db.domain.space import Space
from eatnas_db.domain.states import CandidateState, Origin, SearchKind
from eatnas_db.domain.transfer import PerturbationLimits
from eatnas_db.errors import EatnasError, MetricError, PluginError
from eatnas_db.integrity import violations
from eatnas_db.integrity.violations import NoteCallback, Violation
from eatnas_db.queries.searches import SearchRecord, list_searches
from eatnas_db.schema.candidates import architecture, candidate, prediction
from eatnas_db.schema.searches import step
from eatnas_db.schema.trainings import measurement, score
from eatnas_db.spaces import read_space

_BATCH: Final = 2000
"""The number of births that one transaction reads."""
MODEL_BIRTHS: Final = 200
"""About this many births of a search, evenly spaced, are compared with its model. Each comparison takes up to 0.1 s."""


class _ReplayedBirth(NamedTuple):
    id: int
    birth: int
    origin: str
    parent_id: int | None
    parent_digest: str | None
    parent_code: str | None
    code: str
    digest: str
    params: int
    mult_adds: int
    state: str
    fitness: float | None
    joined: int | None
    left: int | None
    accuracy: float | None
    objectives: list[float] | None
    rung: int
    predicted: bool
    measured: float | None


class _StoredStep(NamedTuple):
    size: int
    mean: float | None
    spread: float | None
    best: float | None
    quality: float | None
    hypervolume: float | None


@dataclass(slots=True)
class _Offenders:
    """The candidates and steps that differ from the replay, and the searches that cannot be replayed."""

    births: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    fitness: list[int] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    searches: list[str] = field(default_factory=list)


def check_replay(engine: Engine, on_unchecked: NoteCallback = lambda _: None) -> Iterator[Violation]:
    """Replay each search with the functions that made its decisions, and yield the differences from the record.

    `on_unchecked` is called for each search whose plug-in cannot be used, which is not a fault of the record.
    """
    with read_transaction(engine) as connection:
        searches = list_searches(connection)
    offenders = _Offenders()
    for record in searches:
        try:
            _Replay(engine, record, offenders).run()
        except PluginError as error:
            on_unchecked(f"search {record.name!r} was not replayed: {error}")
        except (EatnasError, KeyError, TypeError, ValueError):
            offenders.searches.append(record.name)
    for rule, what, found in (
        ("each birth is the one that the spec, the seed and the earlier births decide", "candidates", offenders.births),
        ("the parent of each birth is the one that its origin requires", "candidates", offenders.parents),
        ("each step removes the member that the spec selects", "candidates", offenders.removed),
        ("the fitness of a candidate follows from its scores", "candidates", offenders.fitness),
        ("each step stores the quality of its population", "steps", offenders.steps),
        ("the spec, the space and the basic architecture of each search can be read", "searches", offenders.searches),
    ):
        yield from violations.summarize_offenders(rule, what, found)


class _Replay:
    """The replay of one search.

    The replay bases each birth on the recorded population, so that one fault causes only one violation.
    """

    def __init__(self, engine: Engine, record: SearchRecord, offenders: _Offenders) -> None:
        self._engine, self._record, self._offenders = engine, record, offenders
        objective = record.spec["objective"]
        self._objective = Objective.from_spec(record.spec)
        limits = Limits(objective["max_params"], objective["max_mult_adds"])
        self._space = Space(read_space(record.macro), Task(**record.task), limits)
        self._digests: set[str] = set()
        self._population: list[Member] = []
        self._leaving: dict[int, set[int]] = {}
        """The recorded members that leave at each step."""
        self._step = 0
        self._unapplied: deque[_ReplayedBirth] = deque()
        self._steps: dict[int, _StoredStep] = {}
        self._objectives = list_objectives(record.spec)
        self._selects = bool(self._objectives) and record.kind == SearchKind.EVOLUTION
        """Whether several objectives decide the births and removals of the search."""
        self._metrics: dict[int, dict[str, float]] = {}
        """The scores and measurements of the candidates in the batch; filled only if the search has several objectives.
        """
        self._initial_values: list[list[float]] = []
        """The values of the objectives of the initial births."""
        self._initial: InitialArchitecture | None = None

    def run(self) -> None:
        """Read the births in batches, and check each birth and each step."""
        first = 0
        while first < self._record.born:
            with read_transaction(self._engine) as connection:
                births = self._read_births(connection, first)
                self._steps |= self._read_steps(connection, first)
                self._metrics = self._read_metrics(connection, first) if self._objectives else {}
                if first == 0 and births:
                    self._initial = self._read_initial(connection, births[0])
            if not births:
                break
            for birth in births:
                self._check_birth(birth)
            first = births[-1].birth + 1
        self._advance(self._record.settled)

    def _read_births(self, connection: Connection, first: int) -> list[_ReplayedBirth]:
        parent, parent_architecture = candidate.alias("parent"), architecture.alias("parent_architecture")
        is_measure = and_(
            score.c.candidate_id == candidate.c.id, score.c.metric.in_((self._objective.metric, TEST_ACCURACY))
        )
        measured = select(func.max(score.c.value)).where(is_measure).correlate(candidate).scalar_subquery()
        own = [candidate.c[name] for name in ("state", "fitness", "joined", "left", "accuracy", "objectives", "rung")]
        query = (
            select(
                candidate.c.id,
                candidate.c.birth,
                candidate.c.origin,
                candidate.c.parent_id,
                parent_architecture.c.digest,
                parent.c.code,
                candidate.c.code,
                architecture.c.digest,
                candidate.c.params,
                candidate.c.mult_adds,
                *own,
                exists().where(prediction.c.candidate_id == candidate.c.id),
                measured,
            )
            .join(architecture, architecture.c.id == candidate.c.architecture_id)
            .outerjoin(parent, parent.c.id == candidate.c.parent_id)
            .outerjoin(parent_architecture, parent_architecture.c.id == parent.c.architecture_id)
            .where(
                candidate.c.search_id == self._record.id,
                candidate.c.birth >= first,
                candidate.c.birth < self._record.born,
            )
            .order_by(candidate.c.birth)
            .limit(_BATCH)
        )
        return [_ReplayedBirth._make(row) for row in connection.execute(query)]

    def _read_steps(self, connection: Connection, first: int) -> dict[int, _StoredStep]:
        query = select(step.c.number, *(step.c[name] for name in _StoredStep._fields)).where(
            step.c.search_id == self._record.id, step.c.number > first, step.c.number <= first + _BATCH
        )
        return {row[0]: _StoredStep(*row[1:]) for row in connection.execute(query)}

    def _read_metrics(self, connection: Connection, first: int) -> dict[int, dict[str, float]]:
        metrics: dict[int, dict[str, float]] = defaultdict(dict)
        for table, value in ((score, score.c.value), (measurement, measurement.c.median)):
            query = (
                select(table.c.candidate_id, table.c.metric, value)
                .join(candidate, candidate.c.id == table.c.candidate_id)
                .where(
                    candidate.c.search_id == self._record.id,
                    candidate.c.birth >= first,
                    candidate.c.birth < first + _BATCH,
                )
            )
            for candidate_id, metric, measured in connection.execute(query):
                metrics[candidate_id][metric] = measured
        return metrics

    def _read_initial(self, connection: Connection, first: _ReplayedBirth) -> InitialArchitecture | None:
        record = self._record
        if record.basic_code is None or record.has_sources:
            return None
        transfer = record.spec["transfer"]
        perturbation = PerturbationLimits(transfer["blocks"], tuple(transfer["primitives"]))
        basic = self._space.parse(record.basic_code)
        source, code = first.id, record.basic_code
        if record.basic_id is not None:
            source = record.basic_id
            code = connection.execute(select(candidate.c.code).where(candidate.c.id == source)).scalar() or code
        return InitialArchitecture(source, basic, self._space.parse(code), perturbation)

    def _check_birth(self, birth: _ReplayedBirth) -> None:
        record = self._record
        if birth.birth >= record.population:
            self._advance(min(birth.birth - record.lag + 1, record.settled))
        try:
            is_birth, is_parent = self._matches(birth)
        except PluginError:
            raise
        except (EatnasError, ValueError):
            is_birth, is_parent = False, True
        if not is_birth:
            self._offenders.births.append(birth.id)
        if not is_parent:
            self._offenders.parents.append(birth.id)
        self._digests.add(birth.digest)
        self._unapplied.append(birth)
        if birth.state == CandidateState.SCORED and not self._has_fitness(birth):
            self._offenders.fitness.append(birth.id)

    def _matches(self, birth: _ReplayedBirth) -> tuple[bool, bool]:
        """Return whether a birth's architecture and origin match the replay, and whether the birth's parent matches the
        replay.
        """
        record = self._record
        proposal = self._space.propose(self._space.parse(birth.code))
        same_network = (proposal.digest, proposal.cost.params, proposal.cost.mult_adds) == (
            birth.digest,
            birth.params,
            birth.mult_adds,
        )
        if birth.origin == Origin.SURVIVOR or (record.has_sources and birth.origin == Origin.BASIC):
            # Compare codes instead of digests: in the space of another search, the same code may build another network.
            return same_network, birth.parent_code == birth.code
        if record.kind == SearchKind.IMPORTED:  # The user decided the births of an imported search.
            return same_network and birth.origin == Origin.IMPORTED, birth.parent_id is None
        if record.kind != SearchKind.EVOLUTION:
            return same_network, birth.parent_digest == birth.digest
        if record.spec["evolution"].get("births") == "guided" and birth.birth >= record.initial_births:
            if not self._follows_from_model(birth):
                return False, True
            if birth.predicted:
                return same_network, True
        initial = self._initial
        if initial is not None and birth.birth == 0 and record.basic_id is None:
            initial = InitialArchitecture(None, initial.basic, initial.before, initial.perturbation)
        decided = decide_birth(
            birth.birth,
            seed=record.seed,
            population_size=record.population,
            tournament_size=record.spec["evolution"]["tournament"],
            population=self._population,
            space=self._space,
            is_held=self._digests.__contains__,
            initial=initial,
        )
        recorded = (birth.origin, birth.code, birth.digest)
        is_birth = (decided.origin, str(decided.proposal.architecture), decided.proposal.digest) == recorded
        return is_birth and same_network, decided.parent_id == birth.parent_id

    def _follows_from_model(self, birth: _ReplayedBirth) -> bool:
        """Return whether the model may have decided a birth. In a long search, only some births are compared."""
        if birth.birth % (self._record.born // MODEL_BIRTHS + 1):
            return True
        # Import the model only here, because it loads SciPy.
        from eatnas_db.integrity.guided_replay import RecordedBirth, follows_from_model

        recorded = RecordedBirth(birth.id, birth.birth, birth.code)
        return follows_from_model(self._engine, self._record, self._space, recorded, self._digests.__contains__)

    def _has_fitness(self, birth: _ReplayedBirth) -> bool:
        if birth.measured is None:
            return False
        if birth.origin == Origin.FINAL:  # The cost does not affect the fitness of a final model.
            return birth.fitness == birth.measured
        fitness = self._objective.fitness(birth.measured, birth.mult_adds)
        rungs = rungs_of(self._record.spec, birth.origin)
        accuracy = birth.measured if rungs is None or birth.rung == rungs.last else None
        if (birth.accuracy, birth.fitness) != (accuracy, fitness):
            return False
        return not self._objectives or self._has_objectives(birth)

    def _has_objectives(self, birth: _ReplayedBirth) -> bool:
        costs = {PARAMS: birth.params, MULT_ADDS: birth.mult_adds}
        try:
            values = select_values(self._objectives, {**self._metrics.get(birth.id, {}), **costs})
        except MetricError:
            return False
        return birth.objectives == list(values)

    def _advance(self, last: int) -> None:
        """Compare each recorded step up to `last` with the replayed step."""
        while self._step < last and self._unapplied:
            birth = self._unapplied.popleft()
            self._step += 1
            self._make_step(birth)

    def _make_step(self, birth: _ReplayedBirth) -> None:
        record, number = self._record, self._step
        if birth.joined is not None and birth.fitness is not None:
            values = orient_values(self._objectives, birth.objectives or ()) if self._selects else ()
            self._population.append(
                Member(birth.id, birth.birth, number, birth.fitness, birth.code, values, birth.rung)
            )
            if birth.objectives is not None and birth.birth < record.population:
                self._initial_values.append(birth.objectives)
            if birth.left is not None:
                self._leaving.setdefault(birth.left, set()).add(birth.id)
        removal = record.spec["evolution"]["removal"]
        removed = select_removed(self._population, record.population, removal, seed=record.seed, step=number)
        recorded = self._leaving.pop(number, set())
        expected = set() if removed is None else {removed.candidate_id}
        self._offenders.removed.extend(sorted(recorded ^ expected))
        self._population = [member for member in self._population if member.candidate_id not in recorded]
        summary = summarize_population(self._population)
        stored = self._steps.pop(number, None)
        if stored != _StoredStep(
            summary.size, summary.mean, summary.spread, summary.best, summary.quality, self._hypervolume(number)
        ):
            self._offenders.steps.append(f"step {number} of {record.name}")

    def _hypervolume(self, number: int) -> float | None:
        if not self._selects or number < self._record.population:
            return None
        reference = choose_reference(self._objectives, self._initial_values)
        if reference is None:
            return None
        return relative_hypervolume(self._objectives, [member.values for member in self._population], reference)
