"""Rows for notebooks: frozen dataclasses that convert to a data frame and to an HTML table."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN_ROWS: Final = 20
"""The maximum number of rows that a table in a notebook shows."""
T_co = TypeVar("T_co", covariant=True)


class Rows(tuple[T_co, ...]):
    """The rows of a result: a tuple of frozen dataclasses that converts to a data frame."""

    columns: tuple[str, ...]

    def __new__(cls, rows: Iterable[T_co], columns: Iterable[str]) -> Rows[T_co]:
        """Create rows; `columns` are the columns of the data frame."""
        created = super().__new__(cls, tuple(rows))
        created.columns = tuple(columns)
        return created

    @classmethod
    def of(cls, kind: type[T_co], records: Iterable[T_co]) -> Rows[T_co]:
        """Create rows of one dataclass; its fields are the columns."""
        return cls(records, kind.__dataclass_fields__)  # type: ignore[attr-defined]

    def frame(self) -> DataFrame:
        """Return the rows as a pandas data frame."""
        from pandas import DataFrame

        return DataFrame([_cells(row, self.columns) for row in self], columns=list(self.columns))

    def _repr_html_(self) -> str:
        more = f"<p>… and {len(self) - SHOWN_ROWS:,} more</p>" if len(self) > SHOWN_ROWS else ""
        return html_table(self.columns, [_cells(row, self.columns) for row in self[:SHOWN_ROWS]]) + more


def html_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an HTML table; the text of every cell is escaped."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(_format(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: object, columns: Sequence[str]) -> list[Any]:
    return list(row) if isinstance(row, tuple) else [getattr(row, column) for column in columns]


def _format(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
