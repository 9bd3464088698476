"""The database and Python select the same rows for a page, and the database sends no other rows."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from sqlalchemy import BigInteger, Boolean, Column, Connection, Engine, Float, MetaData, String, Table, insert, select

from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.errors import ConflictError
from eatnas_db.queries.failures import FailedAttempt
from eatnas_db.queries.paging import Page, fetch_page, select_page
from eatnas_db.queries.ranking import rank_candidates
from eatnas_db.schema.candidates import candidate

ROWS = 60
PAGES = 400
TEXTS = (None, "", "a", "b", "B", "ä", "Z", "a b", "10", "9", "yes")
NUMBERS = (None, -1.5, 0.0, 0.1, 2.0, 2.5, float("inf"))
COUNTS = (None, 0, 1, 2, 3, 10**12)


@dataclass(frozen=True)
class PagedRow:
    id: int
    text: str | None
    number: float | None
    count: int | None
    flag: bool | None


PAGED = Table(
    "paged",
    MetaData(),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("text", String),
    Column("number", Float),
    Column("count", BigInteger),
    Column("flag", Boolean),
)


def random_rows(rng: random.Random) -> list[PagedRow]:
    return [
        PagedRow(number, rng.choice(TEXTS), rng.choice(NUMBERS), rng.choice(COUNTS), rng.choice((None, True, False)))
        for number in range(ROWS)
    ]


def random_page(rng: random.Random) -> Page:
    columns = ("id", "text", "number", "count", "flag")
    return Page(
        limit=rng.choice((None, 1, 5, ROWS)),
        offset=rng.choice((0, 0, 3, ROWS)),
        sort=rng.choice((None, *columns, *(f"-{column}" for column in columns))),
        where=tuple(random_condition(rng, rng.choice(columns)) for _ in range(rng.choice((0, 1, 1, 2)))),
    )


def random_condition(rng: random.Random, column: str) -> str:
    if column in ("text", "flag"):
        values, signs = ("", "a", "b", "ä", "z", "10", "yes", "no"), ("=", "!=", "<", "<=", ">", ">=")
    else:
        values, signs = ("0", "0.1", "2", "2.5", "30", "inf", "nan", "1e12"), ("=", "!=", "<", "<=", ">", ">=")
    value = rng.choice(values)
    if value and column not in ("text", "flag") and rng.random() < 0.1:
        value, signs = "", ("=", "!=")
    return f"{column} {rng.choice(signs)} {value}"


@pytest.mark.slow
def test_sql_and_python_select_the_same_page(engine: Engine) -> None:
    rng = random.Random(7)
    rows = random_rows(rng)
    with transaction(engine) as connection:
        PAGED.create(connection)
        connection.execute(insert(PAGED), [row.__dict__ for row in rng.sample(rows, len(rows))])
        for _ in range(PAGES):
            page = random_page(rng)
            fetched = fetch_page(connection, select(PAGED), page, row_type=PagedRow, order=("id",))
            assert fetched == select_page(rows, page, row_type=PagedRow), page


def test_pages_of_a_query_are_consecutive(engine: Engine) -> None:
    rows = random_rows(random.Random(3))
    with transaction(engine) as connection:
        PAGED.create(connection)
        connection.execute(insert(PAGED), [row.__dict__ for row in rows])
        for sort in (None, "text", "-number", "flag"):
            pages = [
                fetch_page(connection, select(PAGED), Page(7, start, sort), row_type=PagedRow, order=("-id",))
                for start in range(0, ROWS, 7)
            ]
            assert [row for page in pages for row in page] == select_page(
                rows[::-1], Page(sort=sort), row_type=PagedRow
            )


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("id", "--where 'id' is not a condition; write COLUMN=VALUE"),
        ("=3", "--where '=3' is not a condition; write COLUMN=VALUE"),
        ("id=x", "--where id=x: id is numeric"),
        ("number<", "--where number<: number is numeric"),
        ("nought=1", "no column 'nought'; the columns are: id, text, number, count, flag"),
    ],
)
def test_malformed_conditions_are_refused(connection: Connection, where: str, message: str) -> None:
    page = Page(where=(where,))
    with pytest.raises(ConflictError, match=message):
        fetch_page(connection, select(PAGED), page, row_type=PagedRow, order=("id",))
    with pytest.raises(ConflictError, match=message):
        select_page([], page, row_type=PagedRow)
    with pytest.raises(ConflictError, match=message):
        select_page([PagedRow(1, "a", None, 1, True)], Page(where=("text=b", *page.where)), row_type=PagedRow)


def failure(number: int, message: str | None) -> FailedAttempt:
    return FailedAttempt(number, number, 1, "failed", "exception", message, None, 1.0, 2.0)


def test_rows_without_a_value_come_last_and_can_be_selected() -> None:
    rows = [failure(1, None), failure(2, "b"), failure(3, "a")]
    for sort, order in (("message", [3, 2, 1]), ("-message", [2, 3, 1])):
        assert [row.birth for row in select_page(rows, Page(sort=sort), row_type=FailedAttempt)] == order
    assert select_page(rows, Page(where=("message=",)), row_type=FailedAttempt) == rows[:1]
    assert select_page(rows, Page(where=("message!=",)), row_type=FailedAttempt) == rows[1:]
    assert select_page(rows, Page(where=("birth >= 2", "message != a")), row_type=FailedAttempt) == rows[1:2]
    assert select_page(rows, Page(where=("message=a=b",)), row_type=FailedAttempt) == []


def test_rows_without_a_value_meet_no_comparison(engine: Engine) -> None:
    rows = [PagedRow(1, None, None, None, None), PagedRow(2, "b", 2.0, 2, True)]
    with transaction(engine) as connection:
        PAGED.create(connection)
        connection.execute(insert(PAGED), [row.__dict__ for row in rows])
        for column, value in {"text": "b", "number": "2", "count": "2", "flag": "yes"}.items():
            for sign in ("=", "!=", "<", "<=", ">", ">="):
                page = Page(where=(f"{column}{sign}{value}",))
                expected = rows[1:] if sign in ("=", "<=", ">=") else []
                assert select_page(rows, page, row_type=PagedRow) == expected, page
                assert fetch_page(connection, select(PAGED), page, row_type=PagedRow, order=("id",)) == expected, page


def test_page_after_the_last_row_is_empty() -> None:
    rows = [failure(1, None)]
    assert select_page(rows, Page(limit=1, offset=5), row_type=FailedAttempt) == []


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_page_of_a_large_search_fetches_few_rows(engine: Engine, search_factory: Callable[..., int]) -> None:
    search_id = search_factory("large")
    with transaction(engine) as connection:
        template = connection.execute(select(candidate).limit(1)).one()._asdict()
        template |= {"state": "scored", "origin": "mutation", "accuracy": None}
        many = [
            {**template, "id": number, "birth": number, "replica": number, "fitness": number % 97 / 97}
            for number in range(1000, 21_000)
        ]
        connection.execute(insert(candidate), many)
    fetched: list[object] = []
    with read_transaction(engine) as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.row_factory = lambda _cursor, row: fetched.append(row) or row
        for page in (Page(10), Page(10, 20), Page(10, sort="-params"), Page(10, 0, "birth", ("fitness>0.5",))):
            fetched.clear()
            assert len(rank_candidates(connection, search_id, page)) == 10
            assert 10 <= len(fetched) <= 31  # one of these rows is the row of the search
        driver.row_factory = None
