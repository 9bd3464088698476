"""Make the rows of a long search in memory. The births are real, and the trainings are synthetic.

The real `decide_birth` decides every birth from the population at its step. Fitness is `candidates.fitness_of`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from eatnas_db.domain.evolution import Birth, Member, decide_birth, select_removed, summarize
from eatnas_db.queries.searches import SearchRecord
from eatnas_db.searches.search_space import space_of
from scaling.candidates import EPOCHS, fitness_of

BATCH_CANDIDATES: Final = 10_000
COLUMNS: Final = {
    "architecture": "id digest genotype",
    "block": "architecture_id position op kernel skip depth width",
    "candidate": "id search_id birth architecture_id code origin parent_id replica state attempt own_failures losses "
    "not_before params mult_adds activations fitness accuracy share_inherited logit_distance lineage_epochs joined "
    "left created_at ended_at",
    "mutation": "candidate_id ordinal block primitive before after",
    "attempt": "candidate_id number worker_id started_at ended_at outcome failure message traceback device_seconds "
    "progressed",
    "epoch": "candidate_id number attempt train_loss train_accuracy val_loss val_accuracy learning_rate seconds "
    "ended_at",
    "score": "candidate_id metric seed value attempt provenance_id",
    "checkpoint": "candidate_id path attempt epoch batch digest bytes created_at",
    "step": "search_id number size mean spread best quality device_seconds at",
    "event": "id at search_id candidate_id attempt kind detail",
}


@dataclass
class Rows:
    """Rows by table, as tuples in the order of `COLUMNS`."""

    tables: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    removed: list[tuple[int, int]] = field(default_factory=list)
    """The step and the id of each candidate that left the population."""

    def add(self, table: str, *values: Any) -> None:
        self.tables[table].append(values)


class SyntheticEvolution:
    """One search in memory: its population, its pending births, and the rows of its history."""

    def __init__(self, search: SearchRecord) -> None:
        self._search, self._space = search, space_of(search)
        self._population: list[Member] = []
        self._digests: set[str] = set()
        self._pending: dict[int, Birth] = {}
        self._events = 0
        self.born = self.settled = 0

    def run(self, count: int) -> Iterator[Rows]:
        """Settle `count` candidates and leave the next births pending. Yield the rows in batches."""
        rows = Rows()
        rows.add("event", self._next_event(), 0.0, 1, None, None, "created", None)
        self._breed(rows)
        while self.settled < count:
            self._settle(rows)
            self._breed(rows)
            if self.settled % BATCH_CANDIDATES == 0:
                yield rows
                rows = Rows()
        for birth in self._pending.values():
            _add_candidate(rows, birth, state="pending", attempt=0)
        for member in self._population:
            path = f"c{member.candidate_id}.ckpt"
            rows.add("checkpoint", member.candidate_id, path, 1, EPOCHS, 0, "0" * 64, 100_000, 1.0)
        yield rows

    def _next_event(self) -> int:
        self._events += 1
        return self._events

    def _breed(self, rows: Rows) -> None:
        search = self._search
        while self.born < search.population or self.born - search.lag + 1 <= self.settled:
            birth = decide_birth(
                self.born,
                seed=search.seed,
                population_size=search.population,
                tournament_size=search.spec["evolution"]["tournament"],
                population=self._population,
                space=self._space,
                is_held=self._digests.__contains__,
            )
            self._digests.add(birth.proposal.digest)
            self._pending[self.born] = birth
            self.born += 1
            _add_architecture(rows, birth)
            at = 0.0 if birth.number < search.population else 1.0
            rows.add("event", self._next_event(), at, 1, self.born, None, "born", None)

    def _settle(self, rows: Rows) -> None:
        birth = self._pending.pop(self.settled)
        candidate_id = birth.number + 1
        fitness = fitness_of(candidate_id)
        _add_training(rows, candidate_id, fitness)
        for kind in ("leased", "scored"):
            rows.add("event", self._next_event(), 1.0, 1, candidate_id, 1, kind, None)
        self.settled += 1
        code = str(birth.proposal.architecture)
        self._population.append(Member(candidate_id, birth.number, self.settled, fitness, code))
        search = self._search
        removal = search.spec["evolution"]["removal"]
        removed = select_removed(self._population, search.population, removal, seed=search.seed, step=self.settled)
        if removed is not None:
            self._population.remove(removed)
            rows.removed.append((self.settled, removed.candidate_id))
        _add_candidate(rows, birth, state="scored", attempt=1, fitness=fitness, joined=self.settled, ended_at=1.0)
        summary = summarize([member.fitness for member in self._population])
        values = (summary.size, summary.mean, summary.spread, summary.best, summary.quality)
        rows.add("step", 1, self.settled, *values, float(self.settled), 1.0)


def _add_architecture(rows: Rows, birth: Birth) -> None:
    number, proposal = birth.number + 1, birth.proposal
    rows.add("architecture", number, proposal.digest, str(proposal.effective))
    for position, block in enumerate(proposal.effective, 1):
        rows.add("block", number, position, block.op, block.kernel, block.skip, block.depth, block.width)
    for ordinal, change in enumerate(proposal.changes):
        before, after = str(change.before), str(change.after)
        rows.add("mutation", number, ordinal, change.block, change.primitive, before, after)


def _add_training(rows: Rows, candidate_id: int, fitness: float) -> None:
    rows.add("attempt", candidate_id, 1, 1, 1.0, 1.0, "scored", None, None, None, 1.0, False)
    for epoch in range(EPOCHS):
        rows.add("epoch", candidate_id, epoch, 1, 1.0, fitness, 1.0, fitness, 0.1, 1.0, 1.0)
    for metric, value in (("val_accuracy", fitness), ("val_loss", 1.0)):
        rows.add("score", candidate_id, metric, 7, value, 1, 1)


def _add_candidate(
    rows: Rows,
    birth: Birth,
    *,
    state: str,
    attempt: int,
    fitness: float | None = None,
    joined: int | None = None,
    ended_at: float | None = None,
) -> None:
    candidate_id, proposal = birth.number + 1, birth.proposal
    identity = (candidate_id, 1, birth.number, candidate_id)
    origin = (str(proposal.architecture), str(birth.origin), birth.parent_id, 0)
    costs = (proposal.cost.params, proposal.cost.mult_adds, proposal.activations)
    result = (fitness, fitness, None, None, None, joined, None, 0.0, ended_at)
    rows.add("candidate", *identity, *origin, state, attempt, 0, 0, 0.0, *costs, *result)
