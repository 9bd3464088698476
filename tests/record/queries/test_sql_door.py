"""`query sql` on a server: no call of any function has an effect, on the newest and the oldest PostgreSQL."""

import shutil
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import make_url

from eatnas_db import adhoc_sql, sql_guard
from eatnas_db.adhoc_sql import run_query
from eatnas_db.database.engine import create_engine_for
from eatnas_db.errors import ConflictError
from eatnas_db.reader_role import READER_ROLE
from eatnas_db.settings import Settings
from eatnas_db.sql_guard import check_query
from eatnas_migrations import commands
from support.debian_postgres import debian_server, find_programs

REFUSED = [
    "DELETE FROM events",
    "WITH gone AS (DELETE FROM eatnas_event RETURNING id) SELECT * FROM gone",
    "WITH a AS (SELECT 1), b AS (INSERT INTO eatnas_record VALUES (1, 'x', 0) RETURNING id) SELECT * FROM b",
    "SELECT 1; SELECT 2",
    "SELECT 1; COMMIT; DELETE FROM eatnas_event",
    "COPY eatnas_event TO '/tmp/x'",
    "COPY (SELECT 1) TO PROGRAM 'touch /tmp/x'",
    "DO $$ BEGIN DELETE FROM eatnas_event; END $$",
    "CALL p()",
    "EXPLAIN ANALYZE DELETE FROM eatnas_event",
    "SET ROLE postgres",
    "RESET ROLE",
    "SELECT * INTO mine FROM events",
    "CREATE TABLE mine AS SELECT 1",
    "SELECT * FROM candidates FOR UPDATE",
    "SELECT * FROM candidates FOR SHARE",
    "LISTEN x",
    "NOTIFY x",
    "LOCK TABLE eatnas_event",
    "TRUNCATE eatnas_event",
    "SELECT lo_create(0)",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '/tmp/x')",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_unlink(1)",
    "SELECT pg_notify('eatnas_changes', 'x')",
    "SELECT pg_create_physical_replication_slot('mine', true)",
    "SELECT pg_create_logical_replication_slot('mine', 'test_decoding')",
    "SELECT pg_drop_replication_slot('mine')",
    "SELECT pg_terminate_backend(1)",
    "SELECT pg_cancel_backend(1)",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_binary_file('/etc/passwd')",
    "SELECT * FROM pg_ls_dir('/')",
    "SELECT pg_stat_file('/etc/passwd')",
    "SELECT pg_file_write('/tmp/x', 'x', false)",
    "SELECT pg_reload_conf()",
    "SELECT pg_rotate_logfile()",
    "SELECT pg_switch_wal()",
    "SELECT pg_sleep(100)",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_stat_reset()",
    "SELECT pg_logical_emit_message(false, 'a', 'b')",
    "SELECT pg_export_snapshot()",
    "SELECT set_config('transaction_read_only', 'off', true)",
    "SELECT current_setting('data_directory')",
    "SELECT query_to_xml('DELETE FROM eatnas_event', true, true, '')",
    "SELECT database_to_xml(true, true, '')",
    "SELECT * FROM dblink('dbname=postgres', 'SELECT 1') AS t(a int)",
    "SELECT dblink_exec('dbname=postgres', 'SELECT 1')",
    "SELECT nextval('eatnas_event_id_seq')",
    "SELECT setval('eatnas_event_id_seq', 1)",
    "SELECT txid_current()",
    'SELECT "pg_sleep"(1)',
    "SELECT PG_SLEEP(1)",
    'SELECT U&"pg_sl\\0065ep"(1)',
    "SELECT pg_catalog.pg_sleep(1)",
    'SELECT "pg_catalog"."pg_sleep"(1)',
    "SELECT pg_catalog.lower('X')",
    "SELECT/**/pg_sleep/**/(1)",
    "SELECT 1 WHERE EXISTS (SELECT pg_sleep(1))",
    "SELECT count(*) FILTER (WHERE pg_sleep(1) IS NULL) FROM events",
    "SELECT sum(1) OVER (ORDER BY pg_sleep(1)) FROM events",
    "SELECT * FROM events ORDER BY pg_sleep(1)",
    "SELECT * FROM events LIMIT (SELECT lo_create(0))",
    "SELECT * FROM candidates JOIN LATERAL pg_sleep(1) AS s ON true",
    "SELECT * FROM ROWS FROM (pg_sleep(1), pg_sleep(1)) AS t",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM public.eatnas_event",
    "SELECT * FROM eatnas_event",
    "WITH pg_authid AS (SELECT 1) SELECT * FROM pg_authid",
    "TABLE eatnas_event",
    "SELECT 'x'::public.mytype",
    "SELECT (1.0::float8).pg_sleep",
    "SELECT ('PG_VERSION'::text).pg_read_file",
    "SELECT (SELECT 'PG_VERSION'::text).pg_read_file",
    "SELECT (array['PG_VERSION'::text])[1].pg_read_file",
    "SELECT g.pg_try_advisory_lock FROM generate_series(7::bigint, 7::bigint) AS g",
    "SELECT g.pg_read_file FROM unnest(array['PG_VERSION'::text]) AS g",
    "SELECT 1 FROM unnest(array[1.0::float8]) AS g ORDER BY g.pg_sleep",
    "SELECT count(*) FILTER (WHERE g.pg_sleep IS NULL) FROM unnest(array[1.0::float8]) AS g",
    "SELECT generate_series.pg_sleep FROM generate_series(1, 1)",
    "SELECT public.g.pg_sleep FROM generate_series(1, 1) AS g",
    "SELECT g.pg_sleep FROM generate_series(1, 1) AS g, (SELECT 1 AS pg_sleep) AS x",
    "SELECT g.pg_sleep FROM generate_series(1, 1) AS g, (SELECT g.pg_sleep) AS x",
    'SELECT g.pg_sleep FROM generate_series(1, 1) AS g("PG_SLEEP")',
    'SELECT "G".pg_sleep FROM generate_series(1, 1) AS "G", (SELECT 1 AS pg_sleep) AS g',
    "SELECT (SELECT generate_series.pg_sleep FROM generate_series(1, 1)) FROM (SELECT 1 AS pg_sleep) generate_series",
    "SELECT (SELECT 1 FROM (SELECT q.pg_sleep) z, (SELECT 1 AS pg_sleep) q) FROM generate_series(1, 1) AS q",
    "SELECT (SELECT g.pg_sleep FROM unnest(array[1.0::float8]) AS g) FROM (SELECT 1 AS pg_sleep) AS g",
    "SELECT (SELECT g.pg_sleep FROM lower('x') AS g) FROM (SELECT 1 AS pg_sleep) AS g",
    "SELECT (SELECT lower.pg_sleep FROM lower('x')) FROM (SELECT 1 AS pg_sleep) AS lower",
    "SELECT (SELECT g.pg_sleep FROM (events JOIN LATERAL lower('x') AS g ON true)) FROM (SELECT 1 AS pg_sleep) AS g",
    "SELECT pg_read_file.pg_read_file FROM json_array_elements_text('[\"PG_VERSION\"]') AS pg_read_file",
    "SELECT candidates.pg_column_size FROM candidates",
    "SELECT 1) AS a; COMMIT; DELETE FROM eatnas_event; SELECT * FROM (SELECT 1",
    "SELECT :name",
    "SELEC",
    "",
    "-- nothing",
    "/* SELECT 1",
]
EFFECTS = [
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_export(lo_from_bytea(0, 'x'), '{folder}/written')",
    "SELECT pg_notify('eatnas_changes', 'x')",
    "SELECT pg_create_physical_replication_slot('mine', true)",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'other'",
    "SELECT pg_logical_emit_message(false, 'a', 'b')",
    "SELECT nextval('eatnas_event_id_seq')",
    "SELECT ('PG_VERSION'::text).pg_read_file",
    "SELECT g.pg_read_file FROM unnest(array['PG_VERSION'::text]) AS g",
    "SELECT * FROM eatnas_event",
    "SELECT rolpassword FROM pg_authid",
    "SELECT query_to_xml('DELETE FROM eatnas_event', true, true, '')",
]
"""Statements inside strings, which the parser does not see: only the server's permissions and the rollback stop them.
"""
SIGNATURES = """
SELECT p.proname, coalesce(CASE a.aggkind WHEN 'o' THEN 'o' WHEN 'h' THEN 'h' END, p.prokind::text),
       coalesce(a.aggnumdirectargs, 0), ARRAY(SELECT t::regtype::text FROM unnest(p.proargtypes) AS t)
FROM pg_proc AS p LEFT JOIN pg_aggregate AS a ON a.aggfnoid = p.oid
WHERE p.pronamespace = 'pg_catalog'::regnamespace ORDER BY p.proname, p.oid
"""
"""The name, kind, number of direct arguments and types of arguments of each function of the server."""
SPECIAL_CALLS = {
    "count": "count(*), count(DISTINCT id) FROM candidates",
    "extract": "extract(year FROM now())",
    "json_extract_path": "json_extract_path('{}', 'a', 'b')",
    "json_extract_path_text": "json_extract_path_text('{}', 'a')",
    "jsonb_extract_path": "jsonb_extract_path('{}', 'a')",
    "jsonb_extract_path_text": "jsonb_extract_path_text('{}', 'a')",
    "json_object_agg": "json_object_agg('a', 1)",
    "jsonb_object_agg": "jsonb_object_agg('a', 1)",
    "jsonb_path_exists": "jsonb_path_exists('{}', '$.a')",
    "jsonb_path_query": "jsonb_path_query('[1]', '$[*]')",
    "jsonb_path_query_array": "jsonb_path_query_array('[1]', '$[*]')",
    "jsonb_path_query_first": "jsonb_path_query_first('[1]', '$[*]')",
    "position": "position('a' IN 'b')",
    "row_to_json": "row_to_json(c) FROM candidates AS c",
    "string_agg": "string_agg(DISTINCT op, ',' ORDER BY op) FROM blocks",
    "substring": "substring('abc' FROM 1 FOR 2), substring('abc', 2)",
}
TYPE_NAMES = {"char", "time", "timestamp"}
"""Names of functions that PostgreSQL's grammar reads as types."""
CONCRETE_TYPES = {
    **dict.fromkeys(['"any"', "anyelement", "anycompatible", "anynonarray", "name", '"char"'], "int"),
    **dict.fromkeys(["anyarray", "anycompatiblearray"], "int[]"),
}


@pytest.fixture(scope="module", params=["pip", pytest.param("debian", marks=pytest.mark.slow)])
def server_url(request):
    """Return the URL of a database with an empty record, where the user is a superuser."""
    pytest.importorskip("psycopg")
    if request.param == "pip":
        url = request.getfixturevalue("postgres").new_database()
        commands.upgrade(create_engine_for(url))
        yield url
        return
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="eatnas-debian-"))
    try:
        with debian_server(programs, folder) as url:
            commands.upgrade(create_engine_for(url))
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def settings(server_url, tmp_path):
    return Settings(tmp_path, server_url)


def as_user(settings, name):
    url = make_url(settings.database_url).set(username=name, password=None)
    return Settings(settings.home, url.render_as_string(hide_password=False))


def execute(settings, statement):
    import psycopg

    with psycopg.connect(settings.database_url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return [] if cursor.description is None else cursor.fetchall()


@pytest.mark.parametrize("query", REFUSED)
@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_a_query_with_effects_is_refused(query, dialect):
    with pytest.raises(ConflictError) as raised:
        check_query(query, dialect)
    assert "\n" not in str(raised.value)


def test_plain_questions_are_answered_on_a_server(settings):
    for query in (
        "SELECT count(*) FROM candidates",
        "WITH candidates AS (SELECT * FROM candidates WHERE joined IS NOT NULL) SELECT count(*) FROM candidates",
        "SELECT s.name, count(c.id) FILTER (WHERE c.state = 'scored') FROM searches s LEFT JOIN candidates c "
        "ON c.search = s.name GROUP BY s.name ORDER BY 2 DESC NULLS LAST LIMIT 3",
        "SELECT spec -> 'training' ->> 'epochs', to_timestamp(created_at)::date, round(seed / 3.0, 2) FROM searches",
        "SELECT detail::json ->> 'file', date_trunc('hour', to_timestamp(at)) FROM events WHERE kind ILIKE '%e%'",
        "SELECT row_number() OVER (PARTITION BY search ORDER BY fitness DESC), percent_rank() OVER (ORDER BY birth) "
        "FROM candidates",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY fitness), string_agg(code, ',' ORDER BY id) "
        "FROM candidates WHERE accuracy > 0.5",
        "SELECT * FROM generate_series(1, 3) AS g(i) CROSS JOIN LATERAL (SELECT g.i * 2 AS double) AS d",
        "SELECT CASE WHEN 1 BETWEEN 0 AND 2 THEN 'a' || 'b' END, coalesce(NULL, 1), 5 % 2, 2 ^ 3, 'a' ~ 'b'",
        "SELECT name FROM searches UNION SELECT search FROM candidates EXCEPT SELECT 'x' ORDER BY 1",
        "SELECT c.id, s.name, (SELECT max(d.epochs) FROM (SELECT max(e.number) AS n FROM epochs e "
        "WHERE e.candidate_id = c.id) AS t(epochs), LATERAL (SELECT t.epochs, c.id) AS d) "
        'FROM candidates AS c JOIN searches AS s ON s.name = c.search WHERE c."left" IS NULL',
        "SELECT e.key, e.value, json_array_elements.value, g.g, g.ordinality FROM searches AS s, "
        "jsonb_each(s.spec::jsonb) AS e, json_array_elements('[1]'), generate_series(1, 2) WITH ORDINALITY AS g",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT n.i + 1 FROM n WHERE n.i < 9) SELECT n.i, n.* FROM n",
        "SELECT b.fitness FROM (SELECT * FROM candidates) AS b UNION SELECT v.x FROM (VALUES (1)) AS v(x)",
        "SELECT array_agg(kernel), json_agg(op), max(depth) FROM blocks WHERE op IN (SELECT op FROM blocks)",
    ):
        run_query(settings, query)
    assert run_query(settings, "SELECT 2 ^ 3, 'ä', 7 / 2").rows == ((8.0, "ä", 3),)


@pytest.mark.slow
def test_every_allowed_function_of_the_server_runs(settings):
    called, failures = set(), {}
    for name, kind, direct, arguments in execute(settings, SIGNATURES):
        if name not in sql_guard._FUNCTIONS or name in called | TYPE_NAMES:
            continue
        if name in SPECIAL_CALLS:
            run_query(settings, f"SELECT {SPECIAL_CALLS[name]}")
            called.add(name)
            continue
        values = [f"NULL::{CONCRETE_TYPES.get(argument, argument)}" for argument in arguments]
        call = f"{name}({', '.join(values)})"
        if kind == "o":
            call = f"{name}({', '.join(values[:direct])}) WITHIN GROUP (ORDER BY {', '.join(values[direct:])})"
        try:
            run_query(settings, f"SELECT {call}{' OVER ()' * (kind == 'w')}")
        except ConflictError as error:
            failures[name] = str(error)
        else:
            called.add(name)
    assert {name: cause for name, cause in failures.items() if name not in called} == {}
    assert {"to_hex", "log10", "log", "to_char", "count", "lag", "percentile_cont", "jsonb_each"} <= called


def test_function_calls_reach_the_server_unchanged(settings):
    query = "SELECT to_hex(255), log10(1000::float8), log(2, 8.0), ln(1.0), now() IS NOT NULL, x'0f'::int"
    assert run_query(settings, query).rows == (("ff", 3.0, 3, 0, True, 15),)


@pytest.mark.parametrize("number", ["0x10", "0X1f", "0b11", "0o17", "1_000", "1.5_5", "1x"])
def test_a_number_that_the_parser_would_change_is_refused(number):
    with pytest.raises(ConflictError, match=f"write the number {number} in decimal digits"):
        check_query(f"SELECT {number} FROM candidates", "postgres")


@pytest.mark.parametrize("query", EFFECTS)
def test_the_server_itself_denies_effects_or_forgets_them(settings, tmp_path, query):
    import psycopg

    address = settings.database_url.replace("+psycopg", "")
    engine = create_engine_for(settings.database_url)
    with psycopg.connect(address, autocommit=True, application_name="other") as other:
        other.execute("LISTEN eatnas_changes")
        before = other.execute("SELECT last_value FROM eatnas_event_id_seq").fetchall()
        try:
            adhoc_sql._run_on_postgresql(engine, query.format(folder=tmp_path), 10, 5.0)
        except ConflictError as error:
            assert "\n" not in str(error)  # noqa: PT017
        assert list(other.notifies(timeout=0)) == []
        assert other.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() == (0,)
        assert other.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (0,)
        assert other.execute("SELECT last_value FROM eatnas_event_id_seq").fetchall() == before
    engine.dispose()
    assert list(tmp_path.iterdir()) == []


def test_the_reader_role_may_read_the_views_alone(settings):
    names = execute(
        settings, f"SELECT table_name FROM information_schema.role_table_grants WHERE grantee = '{READER_ROLE}'"
    )
    assert names
    assert all(name.startswith("eatnas_view_") for (name,) in names)
    ((superuser, login),) = execute(
        settings, f"SELECT rolsuper, rolcanlogin FROM pg_roles WHERE rolname = '{READER_ROLE}'"
    )
    assert (superuser, login) == (False, False)


def test_a_superuser_is_refused_without_the_reader_role(settings):
    execute(settings, f"REVOKE SELECT ON eatnas_view_searches FROM {READER_ROLE}")
    with pytest.raises(ConflictError, match="run `eatnas-db db upgrade`, which creates the role eatnas_reader"):
        run_query(settings, "SELECT 1")
    commands.upgrade(create_engine_for(settings.database_url))
    assert run_query(settings, "SELECT 1").rows == ((1,),)


def test_a_user_with_select_alone_can_ask(settings):
    execute(settings, "DROP ROLE IF EXISTS colleague")
    execute(settings, "CREATE ROLE colleague LOGIN")
    execute(settings, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO colleague")
    assert run_query(as_user(settings, "colleague"), "SELECT count(*) FROM candidates").rows == ((0,),)
    execute(settings, "DROP OWNED BY colleague")
    execute(settings, "DROP ROLE colleague")


def test_an_owner_without_rights_on_roles_can_migrate_and_ask(settings):
    execute(settings, "DROP ROLE IF EXISTS owner_of_record")
    execute(settings, "CREATE ROLE owner_of_record LOGIN")
    execute(settings, "CREATE DATABASE owned OWNER owner_of_record")
    owned = as_user(settings, "owner_of_record")
    url = make_url(owned.database_url).set(database="owned").render_as_string(hide_password=False)
    engine = create_engine_for(url)
    commands.upgrade(engine)
    assert run_query(Settings(settings.home, url), "SELECT count(*) FROM events").rows == ((0,),)
    commands.downgrade(engine, "base")
    engine.dispose()
    execute(settings, "DROP DATABASE owned")
    execute(settings, "DROP ROLE owner_of_record")
