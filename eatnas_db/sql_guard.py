"""Check that a user's SQL is one SELECT that reads only the documented views and calls only harmless functions.

Everything that is not listed here is refused, including syntax that the parser does not know or a later server adds.
Only `query sql` imports this module, because sqlglot is slow to load.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final, Literal

import sqlglot
from sqlglot import TokenType, exp
from sqlglot.dialects.dialect import DialectType
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import SqlglotError

from eatnas_db.errors import ConflictError
from eatnas_db.queries.views import VIEWS
from eatnas_db.sql_columns import QualifiedNames
from eatnas_db.text_encoding import is_storable

Dialect = Literal["sqlite", "postgres"]

REFUSED: Final = "only a single SELECT statement over the views is allowed: {}"
MAX_CHARACTERS: Final = 100_000

_FUNCTION_NAMES: Final = """
abs acos age array array_agg array_length array_size array_to_string asin atan atan2 avg bool_and bool_or btrim
cardinality case cast cbrt ceil ceiling char char_length character_length chr coalesce collate concat concat_ws corr
cos count covar_pop covar_samp cume_dist current_date current_time current_timestamp date date_diff date_part
date_trunc datetime degrees dense_rank div every exists exp explode exploding_generate_series extract first first_value
floor format format_number generate_series glob greatest group_concat hex if ifnull iif initcap instr is_inf is_nan
isfinite j_s_o_n_array_agg j_s_o_n_b_contains_top_key j_s_o_n_object_agg json json_agg json_array json_array_agg
json_array_elements json_array_elements_text json_array_length json_build_array json_build_object json_each
json_each_text json_error_position json_extract json_extract_path json_extract_path_text json_extract_scalar
json_group_array json_group_object json_object json_object_agg json_object_keys json_patch json_quote json_remove
json_set json_tree json_type json_typeof json_valid jsonb jsonb_agg jsonb_array_elements jsonb_array_elements_text
jsonb_array_length jsonb_build_array jsonb_build_object jsonb_contains jsonb_each jsonb_each_text jsonb_exists
jsonb_extract jsonb_extract_path jsonb_extract_path_text jsonb_extract_scalar jsonb_object jsonb_object_agg
jsonb_object_keys jsonb_path_exists jsonb_path_query jsonb_path_query_array jsonb_path_query_first jsonb_typeof
julianday justify_days justify_hours justify_interval lag last last_value lead least left len length like likely ln log
log10 log2 logical_and logical_or lower ltrim make_date make_interval make_timestamp max md5 median min mod mode
now nth_value ntile nullif octet_length overlay parse_json percent_rank percentile_cont percentile_disc pg_typeof pi
position pow power printf quantile quote radians rand random randomblob rank regexp_count regexp_extract regexp_i_like
regexp_instr regexp_like regexp_match regexp_matches regexp_replace regexp_split regexp_split_to_array
regexp_split_to_table regexp_substr regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy
regr_syy replace reverse right round row row_number row_to_json rtrim safe_divide scale sign sin soundex split_part
sqrt starts_with stddev stddev_pop stddev_samp str_position str_to_date str_to_time strftime string_agg string_to_array
strpos substr substring sum tan time time_to_str timediff timestamp timestamp_from_parts timestamp_trunc
to_char to_date to_hex to_json to_jsonb to_number to_timestamp total translate trim trunc ts_or_ds_to_date
ts_or_ds_to_timestamp typeof unhex unicode unix_to_time unixepoch unlikely unnest upper var_pop var_samp variance
variance_pop width_bucket xor zeroblob
"""
_FUNCTIONS: Final = frozenset(_FUNCTION_NAMES.split())
"""The names of functions in SQLite and PostgreSQL, and sqlglot's own names of these functions."""

_STATEMENT_NAMES: Final = """
ABORT ALTER ANALYZE ATTACH BEGIN CALL CHECKPOINT CLOSE CLUSTER COMMENT COMMIT COPY CREATE DEALLOCATE DECLARE DELETE
DETACH DISCARD DO DROP END EXECUTE EXPLAIN FETCH GRANT IMPORT INSERT LISTEN LOAD LOCK MERGE MOVE NOTIFY PRAGMA PREPARE
REASSIGN REFRESH REINDEX RELEASE REPLACE RESET REVOKE ROLLBACK SAVEPOINT SECURITY SET SHOW START TRUNCATE UNLISTEN
UPDATE VACUUM
"""
_OTHER_STATEMENTS: Final = frozenset(_STATEMENT_NAMES.split())

_STRUCTURE_NAMES: Final = """
Add Alias Aliases All And Any ArrayContainedBy ArrayContainsAll ArrayOverlaps AtTimeZone Between BitwiseAnd
BitwiseLeftShift BitwiseNot BitwiseOr BitwiseRightShift BitwiseXor Boolean Bracket CTE Collate Column Concat Cube DPipe
DataType DataTypeParam Distinct Div EQ Escape Except Fetch Filter From GT GTE Glob Group GroupingSets Having
HexString ILike Identifier IgnoreNulls In IntDiv Intersect Interval IntervalSpan Is JSONExtractQuote JSONKeyValue
JSONPath JSONPathKey JSONPathRecursive JSONPathRoot JSONPathSlice JSONPathSubscript JSONPathWildcard Join LT LTE
Lateral Like Limit LimitOptions Literal Mod Mul NEQ Neg Not Null NullOrdered NullSafeEQ NullSafeNEQ Offset Or Order
Ordered Overlaps Paren PropertyEQ RespectNulls Rollup Select SetOperation SimilarTo Slice Star Sub Subquery Table
TableAlias Tuple Union Unnest Values Var Where Window WindowFrame WindowSpec With WithinGroup Xor
"""
_STRUCTURE: Final = frozenset(_STRUCTURE_NAMES.split())
"""The parts of a SELECT without side effects, by the names of sqlglot's classes."""

_KEYWORD_CALLS: Final = frozenset(["CAST", "EXTRACT", "OVERLAY", "POSITION", "SUBSTRING", "TRIM"])


class ServerSql(Postgres):
    """PostgreSQL's SQL with the names of functions as the user wrote them. sqlglot would rename some functions."""

    class Parser(Postgres.Parser):  # type: ignore[valid-type, misc]
        """Keep the name of each function. Only calls with keywords between the arguments need sqlglot's own parsers."""

        FUNCTIONS: Final[dict[str, Any]] = {}
        FUNCTION_PARSERS: Final[dict[str, Any]] = {
            name: parse for name, parse in Postgres.Parser.FUNCTION_PARSERS.items() if name in _KEYWORD_CALLS
        }

    class Generator(Postgres.Generator):  # type: ignore[valid-type, misc]
        """Write `DISTINCT a, b` in an aggregate unchanged."""

        MULTI_ARG_DISTINCT: Final = True


_DIALECTS: Final[dict[Dialect, DialectType]] = {"sqlite": "sqlite", "postgres": ServerSql}


def check_query(query: str, dialect: Dialect) -> exp.Query:
    """Return the parsed query. Raises `ConflictError` if the query is not a single permitted SELECT."""
    statement = _parse(query, dialect)
    ctes = {cte.alias.lower() for cte in statement.find_all(exp.CTE)}
    for name in ctes:
        if name.startswith(("pg_", "sqlite_", "eatnas_")):
            raise ConflictError(REFUSED.format(f"rename {name}, which is reserved for the database's own tables"))
    for node in statement.walk():
        _check_node(node, ctes)
    names = QualifiedNames(statement, dialect, _DIALECTS[dialect])
    for column in statement.find_all(exp.Column):
        if fault := names.find_fault(column):
            raise ConflictError(REFUSED.format(f"{column.sql()} {fault}"))
    return statement


def to_sql(statement: exp.Query, dialect: Dialect) -> str:
    """Return the SQL of a checked query, so that the server reads exactly the tree that was checked."""
    return statement.sql(dialect=_DIALECTS[dialect], normalize_functions=False, comments=False)


def _parse(query: str, dialect: Dialect) -> exp.Query:
    if not is_storable(query):
        raise ConflictError("the query is invalid: it contains characters that cannot be stored as text")
    if len(query) > MAX_CHARACTERS:
        raise ConflictError(f"the query is longer than {MAX_CHARACTERS:,} characters; shorten it")
    if (keyword := _keyword(query)) in _OTHER_STATEMENTS:
        raise ConflictError(REFUSED.format(f"this is {keyword}"))
    # sqlglot logs a warning for each unknown statement. Such statements are refused anyway.
    logging.getLogger("sqlglot").setLevel(logging.CRITICAL)
    try:
        if dialect == "postgres":
            _check_numbers(query)
        parsed = sqlglot.parse(query, dialect=_DIALECTS[dialect])
        statements = [statement for statement in parsed if statement is not None]
    except RecursionError:
        raise ConflictError("the query is invalid: it is nested too deeply") from None
    except SqlglotError as error:
        raise ConflictError(f"the query is invalid: {_first_line(error)}") from None
    if not statements:
        raise ConflictError("the query is empty; write a single SELECT statement over the views")
    if len(statements) > 1:
        raise ConflictError(REFUSED.format(f"there are {len(statements)} statements"))
    (statement,) = statements
    if isinstance(statement, exp.Query):
        return statement
    if isinstance(statement, exp.Column):
        raise ConflictError(f"the query is invalid: {statement.sql()!r} is not a statement")
    raise ConflictError(REFUSED.format(f"this is {_keyword(query)}"))


def _check_numbers(query: str) -> None:
    """Refuse `0x10` and `1_000`, which sqlglot reads as a bit string and as a number with an alias."""
    tokens = sqlglot.tokenize(query, dialect=ServerSql)
    for token, following in pairwise([*tokens, None]):
        if token is None:
            continue
        end = token.end
        is_number = token.token_type == TokenType.NUMBER
        if is_number and following is not None and following.start == end + 1 and following.text[:1].isidentifier():
            end = following.end
        elif query[token.start : token.start + 2].lower() not in ("0x", "0b", "0o"):
            continue
        raise ConflictError(
            f"the query is invalid: write the number {query[token.start : end + 1]} in decimal digits alone"
        )


def _first_line(error: SqlglotError) -> str:
    details = getattr(error, "errors", None)
    if details:
        return f"{details[0]['description']} near {details[0]['highlight'] or 'the end'!r}"
    return (str(error).splitlines() or ["it cannot be parsed"])[0]


def _keyword(query: str) -> str:
    return next(iter(query.split()), "")[:20].upper()


def _check_node(node: exp.Expr, ctes: set[str]) -> None:
    if isinstance(node, exp.Table):
        _check_table(node, ctes)
    elif isinstance(node, exp.CTE) and not isinstance(node.this, exp.Query):
        raise ConflictError(REFUSED.format(f"{node.alias} is not a SELECT"))
    elif isinstance(node, exp.Dot) and isinstance(node.expression, exp.Func):
        raise ConflictError(REFUSED.format(f"write function {node.sql()} without its schema"))
    elif isinstance(node, exp.Dot):
        raise ConflictError(REFUSED.format(f"{node.sql()} may call a function; read a JSON field with -> or ->>"))
    elif isinstance(node, exp.DataType) and node.this == exp.DataType.Type.USERDEFINED:
        raise ConflictError(REFUSED.format(f"type {node.sql()} is not a numeric, text, time or JSON type"))
    elif isinstance(node, exp.Func) and type(node).__name__ not in _STRUCTURE:
        _check_function(node)
    elif not isinstance(node, exp.Func) and type(node).__name__ not in _STRUCTURE:
        raise ConflictError(REFUSED.format(f"{type(node).__name__} is not allowed in it"))


def _check_table(table: exp.Table, ctes: set[str]) -> None:
    if isinstance(table.this, exp.Func):
        return  # A function that returns rows is a node of its own, which is checked separately.
    name = table.name.lower()
    if table.args.get("db") or table.args.get("catalog"):
        raise ConflictError(REFUSED.format(f"write {table.name} without its schema"))
    if name not in VIEWS and name not in ctes:
        raise ConflictError(f"there is no table or view {table.name}; the views are {', '.join(VIEWS)}")


def _check_function(function: exp.Func) -> None:
    names = list(_names(function))
    if not any(name in _FUNCTIONS for name in names):
        raise ConflictError(
            REFUSED.format(
                f"function {names[0]} is not one of the allowed functions, which the page `Querying the record` of the "
                "documentation lists"
            )
        )


def _names(function: exp.Func) -> Iterator[str]:
    if isinstance(function, exp.Anonymous | exp.AnonymousAggFunc):
        yield function.name.lower()
    else:
        yield from (name.lower() for name in function.sql_names())
