"""Check that each qualified name in a user's SQL is a column.

PostgreSQL reads `t.f` as the call f(t) if the relation `t` has no column `f`. So `t.f` is allowed only if every
relation that `t` can mean at its position has a column `f`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final, Literal

import sqlglot
from sqlglot import exp
from sqlglot.dialects.dialect import DialectType

from eatnas_db.queries.views import VIEWS

_PAIR: Final = ("key", "value")
_OF_ARRAY: Final = ("value",)
_TREE: Final = ("key", "value", "type", "atom", "id", "parent", "fullkey", "path", "json", "root")
_RESULT_COLUMNS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "postgres": {
        **dict.fromkeys(("json_each", "json_each_text", "jsonb_each", "jsonb_each_text"), _PAIR),
        **dict.fromkeys(("json_array_elements", "json_array_elements_text"), _OF_ARRAY),
        **dict.fromkeys(("jsonb_array_elements", "jsonb_array_elements_text"), _OF_ARRAY),
    },
    "sqlite": dict.fromkeys(("json_each", "json_tree"), _TREE),
}
"""The columns of functions that define the names of their result columns."""

_OBJECT_KEYS: Final = ("json_object_keys", "jsonb_object_keys")
_NAMED_BY_ALIAS: Final = frozenset(
    ["generate_series", "regexp_matches", "regexp_split_to_table", "jsonb_path_query", *_OBJECT_KEYS]
)
"""Functions with one result column. The name of the column is the alias or, without an alias, the name of the
function.
"""

_MAX_BYTES: Final = 63
"""The maximum length of a name in bytes: PostgreSQL truncates longer names, so two different names in a query could be
the same name for the server.
"""


class QualifiedNames:
    """The columns that the relations of one query have."""

    def __init__(self, statement: exp.Query, dialect: Literal["sqlite", "postgres"], generator: DialectType) -> None:
        self._dialect, self._generator = dialect, generator
        self._ctes: dict[str, list[exp.CTE]] = {}
        for cte in statement.find_all(exp.CTE):
            self._ctes.setdefault(_alias(cte) or "", []).append(cte)
        self._sources: dict[int, dict[str, list[exp.Expr]]] = {}
        self._outputs: dict[int, frozenset[str]] = {}
        self._entered: set[int] = set()

    def find_fault(self, column: exp.Column) -> str | None:
        """Return the reason why a qualified name is refused, or None if it is a column."""
        qualifier = column.args.get("table")
        if qualifier is None:
            return None
        if column.args.get("db") or column.args.get("catalog"):
            return "has more than one qualifier; write the alias of a table and the column"
        relation = _normalize(qualifier)
        if isinstance(column.this, exp.Star):
            return None
        name = _normalize(column.this)
        if max(len(relation.encode()), len(name.encode())) > _MAX_BYTES:
            return f"has a name of more than {_MAX_BYTES} bytes"
        if name in self._columns_of_relation(column, relation):
            return None
        return f"is not a column of {relation}; name computed columns with AS, and use each alias for one table only"

    def _columns_of_relation(self, place: exp.Expr, relation: str) -> frozenset[str]:
        """Return the columns that all relations of this name in the enclosing SELECTs share."""
        found: list[frozenset[str]] = []
        ancestor = place.parent
        while ancestor is not None:
            if isinstance(ancestor, exp.Select):
                found += [self._columns(source) for source in self._list_sources(ancestor).get(relation, [])]
            ancestor = ancestor.parent
        return frozenset.intersection(*found) if found else frozenset()

    def _list_sources(self, query: exp.Select) -> dict[str, list[exp.Expr]]:
        if id(query) not in self._sources:
            sources = self._sources[id(query)] = {}
            for part in (
                query.args.get("from_"),
                *(query.args.get("joins") or []),
                *(query.args.get("laterals") or []),
            ):
                for source in _find_sources(part) if part is not None else ():
                    sources.setdefault(self._name(source), []).append(source)
        return self._sources[id(query)]

    def _name(self, source: exp.Expr) -> str:
        if (alias := _alias(source)) is not None:
            return alias
        if isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier):
            return _normalize(source.this)
        return self._function_name(source)

    def _function_name(self, source: exp.Expr) -> str:
        if isinstance(source, exp.Unnest):
            return "unnest"
        function = source if isinstance(source, exp.Func) else source.this
        if not isinstance(function, exp.Func):
            return ""
        return function.sql(dialect=self._generator, normalize_functions=False).partition("(")[0].lower()

    def _columns(self, source: exp.Expr) -> frozenset[str]:
        alias = source.args.get("alias")
        if alias is not None and alias.args.get("columns"):
            return frozenset(_normalize(column) for column in alias.args["columns"])
        if isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier):
            return self._columns_of_table(_normalize(source.this))
        if isinstance(source, exp.Func) or isinstance(source.this, exp.Func):
            return self._columns_of_function(source)
        if isinstance(source, exp.Values):
            return frozenset(f"column{i}" for i in range(1, 1 + len(source.expressions[0].expressions)))
        return self._output_columns(source.this)

    def _columns_of_function(self, source: exp.Expr) -> frozenset[str]:
        function = self._function_name(source)
        columns = _RESULT_COLUMNS[self._dialect].get(function)
        if columns is None:
            alone = function in _NAMED_BY_ALIAS or (function == "unnest" and len(source.expressions) == 1)
            columns = (self._name(source),) if alone else ()
        if source.args.get("ordinality") or source.args.get("offset") is True:
            columns = (*columns, "ordinality")
        return frozenset(columns)

    def _columns_of_table(self, name: str) -> frozenset[str]:
        found = [_columns_of_view(name)] if name in VIEWS else []
        for cte in self._ctes.get(name, []):
            if id(cte) not in self._entered:
                self._entered.add(id(cte))
                found.append(self._columns(cte))
                self._entered.discard(id(cte))
        return frozenset.intersection(*found) if found else frozenset()

    def _output_columns(self, query: exp.Expr) -> frozenset[str]:
        while isinstance(query, exp.Subquery | exp.SetOperation):
            query = query.this  # The first SELECT names the columns of a UNION.
        if not isinstance(query, exp.Select):
            return frozenset()
        if id(query) not in self._outputs:
            names = frozenset(name for item in query.expressions for name in self._names_of_item(query, item))
            self._outputs[id(query)] = names
        return self._outputs[id(query)]

    def _names_of_item(self, query: exp.Select, item: exp.Expr) -> Iterator[str]:
        if (alias := _alias(item)) is not None:
            yield alias
        elif isinstance(item, exp.Star):
            for sources in self._list_sources(query).values():
                for source in sources:
                    yield from self._columns(source)
        elif isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
            yield from self._columns_of_relation(item, _normalize(item.args["table"]))
        elif isinstance(item, exp.Column):
            yield _normalize(item.this)


def _find_sources(part: exp.Expr) -> Iterator[exp.Expr]:
    """Yield the relations that a part of FROM names, without relations inside subqueries."""
    relation = part.this if isinstance(part, exp.From | exp.Join) else part
    yield relation
    if isinstance(relation, exp.Subquery) and not isinstance(relation.this, exp.Select | exp.SetOperation):
        yield from _find_sources(relation.this)  # The relation is a join in parentheses.
    for nested in (*(relation.args.get("joins") or []), *(relation.args.get("laterals") or [])):
        yield from _find_sources(nested)


def _alias(node: exp.Expr) -> str | None:
    alias = node.args.get("alias")
    if isinstance(alias, exp.TableAlias):
        alias = alias.this
    return _normalize(alias) if isinstance(alias, exp.Identifier) else None


def _normalize(identifier: exp.Expr) -> str:
    """Return the name as PostgreSQL compares it: with ASCII letters in lower case unless the name is quoted."""
    if identifier.args.get("quoted"):
        return identifier.name
    return "".join(letter.lower() if letter.isascii() else letter for letter in identifier.name)


@cache
def _columns_of_view(name: str) -> frozenset[str]:
    view = sqlglot.parse_one(VIEWS[name], dialect="postgres")
    return frozenset(view.named_selects) if isinstance(view, exp.Query) else frozenset()
