"""Check stored genotypes, digests and mutations against the functions that derive them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import groupby
from typing import Final, NamedTuple

from sqlalchemy import Connection, Engine, select

from eatnas_db.database.transactions import read_transaction
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Task
from eatnas_db.domain.space import Space, list_changes
from eatnas_db.errors import DamagedRecordError, EatnasError, PluginError
from eatnas_db.integrity.violations import Violation, summarize_offenders
from eatnas_db.schema.candidates import architecture, candidate, mutation
from eatnas_db.schema.searches import search
from eatnas_db.spaces import read_space

_BATCH: Final = 5000
"""The number of candidates that one transaction reads."""


class _StoredMutation(NamedTuple):
    block: int
    primitive: str
    before: str
    after: str


class _StoredGenotype(NamedTuple):
    candidate_id: int
    search_id: int
    code: str
    parent_code: str | None
    digest: str
    genotype: str


def check_genotypes(engine: Engine) -> list[Violation]:
    """Check the stored genotype and digest of every code, and the mutations between parent and child."""
    with read_transaction(engine) as connection:
        rows = connection.execute(select(search.c.id, search.c.macro, search.c.task)).all()
    spaces: dict[int, Space] = {}
    for stored in rows:
        with suppress(
            DamagedRecordError, PluginError, AttributeError, TypeError
        ):  # the replay reports that the space cannot be read
            spaces[stored.id] = Space(read_space(stored.macro), Task(**stored.task))
    parsers = {search_id: _parser_of(space) for search_id, space in spaces.items()}
    wrong_genotype: list[int] = []
    wrong_mutations: list[int] = []
    last = 0
    while True:
        with read_transaction(engine) as connection:
            genotypes = _read_genotypes(connection, after=last)
            if not genotypes:
                break
            last = genotypes[-1].candidate_id
            mutations = _read_mutations(connection, first=genotypes[0].candidate_id, last=last)
        for row in genotypes:
            if row.search_id not in spaces:
                continue
            try:
                space, parse = spaces[row.search_id], parsers[row.search_id]
                proposed = parse(row.code)
                if not _has_genotype(row, space, proposed):
                    wrong_genotype.append(row.candidate_id)
                if _mutations_of(row, proposed, parse) != mutations.get(row.candidate_id, []):
                    wrong_mutations.append(row.candidate_id)
            except PluginError:  # the replay reports this error
                del spaces[row.search_id]
            except (EatnasError, ValueError):
                wrong_genotype.append(row.candidate_id)
    return summarize_offenders(
        "the stored genotype and digest follow from the candidate's code",
        "candidates",
        wrong_genotype,
    ) + summarize_offenders(
        "the stored mutations are the differences between parent and child", "candidates", wrong_mutations
    )


def _read_genotypes(connection: Connection, *, after: int) -> list[_StoredGenotype]:
    parent = candidate.alias("parent")
    query = (
        select(
            candidate.c.id,
            candidate.c.search_id,
            candidate.c.code,
            parent.c.code.label("parent_code"),
            architecture.c.digest,
            architecture.c.genotype,
        )
        .outerjoin(parent, parent.c.id == candidate.c.parent_id)
        .join(architecture, architecture.c.id == candidate.c.architecture_id)
        .where(candidate.c.id > after)
        .order_by(candidate.c.id)
        .limit(_BATCH)
    )
    return [_StoredGenotype(*row) for row in connection.execute(query)]


def _read_mutations(connection: Connection, *, first: int, last: int) -> dict[int, list[_StoredMutation]]:
    columns = (mutation.c[name] for name in _StoredMutation._fields)
    query = (
        select(mutation.c.candidate_id, *columns)
        .where(mutation.c.candidate_id.between(first, last))
        .order_by(mutation.c.candidate_id, mutation.c.ordinal)
    )
    groups = groupby(connection.execute(query), key=lambda row: int(row[0]))
    return {candidate_id: [_StoredMutation(*row[1:]) for row in group] for candidate_id, group in groups}


def _has_genotype(row: _StoredGenotype, space: Space, proposed: Architecture) -> bool:
    effective = space.effective(proposed)
    return str(effective) == row.genotype and space.digest(effective) == row.digest


def _mutations_of(
    row: _StoredGenotype, proposed: Architecture, parse: Callable[[str], Architecture]
) -> list[_StoredMutation]:
    # A candidate has no mutations if it has no parent or its parent's row is missing.
    changes = () if row.parent_code is None else list_changes(parse(row.parent_code), proposed)
    return [
        _StoredMutation(change.block, change.primitive, str(change.before), str(change.after)) for change in changes
    ]


def _parser_of(space: Space) -> Callable[[str], Architecture]:
    """Return a function that parses codes of a space and caches each of the few hundred different blocks."""
    parse_block = cache(space.macro.parse_block)
    last = len(space.macro.blocks) - 1

    def parse(code: str) -> Architecture:
        return Architecture(
            tuple(parse_block(min(position, last), text) for position, text in enumerate(code.split("/")))
        )

    return parse
