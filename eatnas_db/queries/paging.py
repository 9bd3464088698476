"""Select a page of rows by the user's conditions, order and range.

`fetch_page` lets the database select from the rows of one statement. `select_page` selects from rows that Python has
assembled. Both functions apply the same rules.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Float,
    Integer,
    Numeric,
    Select,
    case,
    false,
    literal,
    or_,
    select,
    true,
)

from eatnas_db.database.dialects import is_postgresql
from eatnas_db.errors import ConflictError

_T = TypeVar("_T")
_OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION: Final = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Page:
    """The rows to show and their order.

    `where` holds conditions such as `params<=100000`. As in SQL, a row without a value in the column meets no
    comparison with a value. `column=` selects the rows without a value, and `column!=` all other rows. `sort` is a
    column, or `-column` for the largest first; rows without a value in that column come last. By default all rows are
    shown in the order of the query.
    """

    limit: int | None = None
    offset: int = 0
    sort: str | None = None
    where: tuple[str, ...] = ()

    @property
    def selects(self) -> bool:
        """Whether the page has conditions, or an order other than the query's."""
        return self.sort is not None or bool(self.where)

    @property
    def end(self) -> int | None:
        """The number of rows up to the end of the page; None if the page has no limit."""
        return None if self.limit is None else self.offset + self.limit

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions, parsed. Raises `ConflictError`."""
        return tuple(map(parse_condition, self.where))

    @property
    def sort_column(self) -> tuple[str, bool] | None:
        """The column to sort by, and whether the largest value comes first."""
        return None if self.sort is None else (self.sort.removeprefix("-"), self.sort.startswith("-"))


EVERYTHING: Final = Page()
"""All rows, in the order of the query."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison of a column with a value; `text` is the condition as the user wrote it."""

    text: str
    column: str
    sign: str
    value: str

    @property
    def matches_missing(self) -> bool:
        """Whether rows without a value in the column meet the condition; they meet only `COLUMN=`."""
        return self.value == "" and self.sign == "="

    def compare(self, value: Any) -> Any:
        """Compare a string (a Python value or an SQL expression) with the value of the condition."""
        return _OPERATORS[self.sign](value, self.value)

    def compare_number(self, value: Any) -> Any:
        """Compare a number (a Python value or an SQL expression) with the value of the condition.

        Raises `ConflictError`.
        """
        if not self.value and self.sign in ("=", "!="):
            return self.sign == "!="  # a number is never empty
        try:
            number = float(self.value)
        except ValueError:
            raise ConflictError(f"--where {self.text}: {self.column} is numeric; compare it with a number") from None
        if math.isnan(number):  # some databases order NaN with the numbers, others read it as NULL
            return self.sign == "!="
        return _OPERATORS[self.sign](value, literal(number, Float) if isinstance(value, ColumnElement) else number)


def parse_condition(text: str) -> Condition:
    """Parse a condition such as `params<=100000`. Raises `ConflictError`."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ConflictError(f"--where {text!r} is not a condition; write COLUMN=VALUE, or use one of != < <= > >=")
    return Condition(text, match[1], match[2], match[3].strip())


def fetch_page(
    connection: Connection, query: Select[Any], page: Page, *, row_type: Callable[..., _T], order: Sequence[str]
) -> list[_T]:
    """Return a page of the rows of a query; `row_type` converts the output columns of each row.

    Conditions and `sort` may name any output column. The query must have no ORDER BY. By default the rows are sorted by
    the output columns `order`, which have no NULLs; a leading "-" means descending order. These columns also break ties
    of `sort`. Raises `ConflictError` for an unknown column, or a condition that does not fit its column.
    """
    if page.selects:
        # Compare output columns outside the query, because some of them are aggregates.
        rows = query.subquery()
        query = select(rows)
        for condition in page.conditions:
            query = query.where(_meets_in_sql(connection, _column(rows.c, condition.column), condition))
    if page.sort_column is not None:
        name, descending = page.sort_column
        key = _sort_key(connection, _column(query.selected_columns, name))
        query = query.order_by((key.desc() if descending else key.asc()).nulls_last())
    for name in order:
        column = query.selected_columns[name.removeprefix("-")]
        query = query.order_by(column.desc() if name.startswith("-") else column)
    result = connection.execute(query.limit(page.limit).offset(page.offset or None))
    return [row_type(*row) for row in result]


def select_page(
    rows: Iterable[_T],
    page: Page,
    *,
    row_type: type[_T],
    numbers: Mapping[str, Callable[[_T], float | None]] = MappingProxyType({}),
) -> list[_T]:
    """Return the dataclass instances among `rows` that belong to a page.

    The columns are the fields of `row_type` and the `numbers`, which functions compute from a row. Raises
    `ConflictError` for a condition that does not fit the columns, even if there are no rows.
    """
    _require_fitting(page, row_type, numbers)

    def value_of(row: _T, column: str) -> Any:
        return numbers[column](row) if column in numbers else getattr(row, column)

    selected = list(rows)
    for condition in page.conditions:
        selected = [row for row in selected if _meets(value_of(row, condition.column), condition)]
    if page.sort_column is not None:
        name, descending = page.sort_column
        known = [row for row in selected if value_of(row, name) is not None]
        missing = [row for row in selected if value_of(row, name) is None]
        selected = sorted(known, key=lambda row: value_of(row, name), reverse=descending) + missing
    return selected[page.offset : page.end]


def _require_fitting(page: Page, row_type: Any, numbers: Iterable[str]) -> None:
    if not page.selects:
        return
    types = {name: hint for name, hint in get_type_hints(row_type).items() if name in row_type.__dataclass_fields__}
    types.update(dict.fromkeys(numbers, float))
    for condition in page.conditions:
        _require_column(condition.column, types)
        hint = types[condition.column]
        if get_origin(hint) is not tuple and {*get_args(hint), hint} & {int, float}:
            condition.compare_number(0)
    if page.sort_column is not None:
        _require_column(page.sort_column[0], types)


def _meets(value: Any, condition: Condition) -> bool:
    if value is None:
        return condition.matches_missing
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, int | float):
        return bool(condition.compare_number(value))
    return bool(condition.compare(_as_text(value)))


def _as_text(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _meets_in_sql(connection: Connection, column: ColumnElement[Any], condition: Condition) -> ColumnElement[bool]:
    if isinstance(column.type, Boolean):
        column = case((column, "yes"), (~column, "no"))
    if isinstance(column.type, Integer | Float | Numeric):
        met = condition.compare_number(column)
    else:
        met = condition.compare(_sort_key(connection, column))
    if isinstance(met, bool):
        met = true() if met else false()
    missing = column.is_(None)
    return or_(missing, met) if condition.matches_missing else ~missing & met


def _sort_key(connection: Connection, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a sort key that orders text by code point, as SQLite and Python do, whatever the locale of the server."""
    is_text = not isinstance(column.type, Integer | Float | Numeric | Boolean)
    return column.collate("C") if is_text and is_postgresql(connection) else column


def _column(columns: Any, name: str) -> ColumnElement[Any]:
    _require_column(name, columns.keys())
    column: ColumnElement[Any] = columns[name]
    return column


def _require_column(name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise ConflictError(f"no column {name!r}; the columns are: {', '.join(names)}")
