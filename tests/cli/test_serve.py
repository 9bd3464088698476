"""`serve` answers with the same JSON as the command line, and refuses forbidden requests."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from starlette.testclient import TestClient
from typer.testing import CliRunner

from eatnas_cli.app import app
from eatnas_cli.command_tools import list_tools
from eatnas_cli.web.access import AccessRules, is_loopback
from eatnas_cli.web.openapi import path_of
from eatnas_cli.web.server import build_app
from eatnas_db.database.engine import kept_engines, opened_engine, read_connection
from eatnas_db.database.transactions import transaction
from eatnas_db.schema.record import VERSION_TABLE
from support.postgres import TEMPLATE, Server
from support.reader import run_as_reader, without_write_permission
from support.recorded_search import Record, make_record
from support.tool_answers import ANSWERS

TOKEN = "a-token-for-the-tests"
PATHS = {tool.name: path_of(tool) for tool in list_tools()}


@pytest.fixture(scope="module", autouse=True)
def engines() -> Iterator[None]:
    """Make all requests of this module share their engines, as the requests to a server do."""
    with kept_engines():
        yield


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return make_record(tmp_path_factory.mktemp("serve") / "home", lambda folder: f"sqlite:///{folder / 'eatnas.db'}")


def new_client(record: Record, host: str = "127.0.0.1", token: str | None = None, **options: object) -> TestClient:
    rules = AccessRules(host, 8642, token, ("lab.example.org",))
    return TestClient(build_app(record.settings, rules, "1.0"), base_url=f"http://{host}:8642", **options)


@pytest.fixture(scope="module")
def client(record: Record) -> TestClient:
    return new_client(record)


def command(record: Record, *arguments: str) -> str:
    where = ["--home", str(record.settings.home), "--db", record.settings.database_url]
    result = CliRunner().invoke(app, [*where, *arguments, "--format", "json"])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_equals_that_of_the_command_line(record: Record, client: TestClient, name: str) -> None:
    arguments, line = ANSWERS[name]
    answer = client.get(PATHS[name], params=arguments)
    assert (answer.status_code, answer.text) == (200, command(record, *line))
    (tool,) = [tool for tool in list_tools() if tool.name == name]
    assert isinstance(answer.json(), list if tool.is_table else dict)


def test_answers_on_postgresql_equal_those_of_the_command_line(postgres_record_url: str, tmp_path: Path) -> None:
    record = make_record(tmp_path / "home", lambda _: postgres_record_url)
    client = new_client(record)
    for name in ("query_best", "query_quality", "search_list", "daemon_status"):
        arguments, line = ANSWERS[name]
        assert client.get(PATHS[name], params=arguments).text == command(record, *line)
    record.engine.dispose()


def test_requests_at_the_same_time_get_their_own_answers(record: Record, client: TestClient) -> None:
    names = ["query_best", "query_pareto", "query_quality", "query_events"] * 2
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: client.get(PATHS[name], params=ANSWERS[name][0]).text, names))
    assert answers == [client.get(PATHS[name], params=ANSWERS[name][0]).text for name in names]


def test_requests_share_one_engine(record: Record) -> None:
    with opened_engine(record.settings.database_url) as first, opened_engine(record.settings.database_url) as second:
        assert first is second


def test_more_readers_than_pooled_connections_read_concurrently(postgres_record_url: str) -> None:
    with ExitStack() as stack:
        for _ in range(20):  # all 40 threads of a server may read at once
            stack.enter_context(read_connection(postgres_record_url))


def test_server_answers_again_after_database_was_disconnected(postgres: Server, tmp_path: Path) -> None:
    record = make_record(tmp_path / "home", lambda _: postgres.new_database(TEMPLATE), births=2)
    client, url = new_client(record), make_url(record.settings.database_url)
    answer = client.get("/api/search/list").json()
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.database}'")
    assert client.get("/api/search/list").json() == answer
    record.engine.dispose()
    postgres.drop(record.settings.database_url)


def test_unchanged_answer_is_not_sent_again(client: TestClient) -> None:
    tag = client.get("/api/search/list").headers["etag"]
    again = client.get("/api/search/list", headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)


@pytest.mark.parametrize(
    ("address", "status", "field", "message"),
    [
        ("query/best?name=nobody", 404, "name", "no search named 'nobody'"),
        ("search/show?name=nobody", 404, "name", "no search named 'nobody'"),
        ("candidate/show?candidate=999", 404, "candidate", "no candidate 999"),
        ("query/lineage?name_or_id=999", 404, "name_or_id", "no candidate 999"),
        ("query/best", 422, "name", "needs the argument name"),
        ("query/best?name=small&top=many", 422, "top", "valid integer"),
        ("query/best?name=small&top=0", 422, "top", "greater than or equal to 1"),
        ("query/best?name=small&picture=x.png", 422, "picture", "has no argument picture"),
        ("query/best?name=small&name=large", 422, "name", "given twice"),
        ("query/best?name=small&sort=-nothing", 422, "sort", "no column 'nothing'"),
        ("query/best?name=small&where=fitness", 422, "where", "is not a condition"),
        ("query/best?name=small&where=nothing%3E3", 422, "where", "no column 'nothing'"),
        ("query/pareto?name=small&cost=size", 422, "cost", "size"),
        ("query/compare?names=small&names=small&alone=yes", 422, "alone", "must be true or false"),
        ("query/events?kind=nothing", 404, "kind", "the kinds are: "),
        ("query/primitives?name=small&block=99", 404, "block", "block 99"),
        ("query/sql?question=DELETE%20FROM%20searches", 422, "question", "SELECT"),
        ("query/best?name=small&where=%0a", 422, "where", "is not a condition"),
        ("query/compare?names=small&names=small&alone=%0a", 422, "alone", "must be true or false"),
        (f"query/mutations?name=small&block={10**30}", 422, "block", "less than or equal"),
        (f"query/failures?name=small&limit={10**30}", 422, "limit", "less than or equal"),
        (f"query/failures?name=small&offset={10**30}", 422, "offset", "less than or equal"),
        (f"query/events?offset={10**30}", 422, "offset", "less than or equal"),
        ("query/best?name=%00", 422, "name", "not valid text"),
        ("space/show?name=nothing", 404, "name", "nothing"),
        ("search/list?name=small", 422, "name", "it has none"),
        ("query/nothing", 404, None, "/docs lists the paths of the API"),
    ],
)
def test_mistake_is_reported_in_one_line_with_its_field(
    client: TestClient, address: str, status: int, field: str | None, message: str
) -> None:
    answer = client.get(f"/api/{address}")
    error = answer.json()["error"]
    assert (answer.status_code, error["status"], error["field"]) == (status, status, field), error
    assert message in error["message"]
    assert "\n" not in error["message"]


def test_server_only_reads(client: TestClient) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answer = client.request(method, "/api/search/list")
        assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


def test_description_lists_every_path_and_parameter(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    assert description["openapi"] == "3.1.0"
    assert set(description["paths"]) == set(PATHS.values())
    for tool in list_tools():
        parameters = description["paths"][path_of(tool)]["get"]["parameters"]
        assert [parameter["name"] for parameter in parameters] == list(tool.parameters)
    page = client.get("/docs").text
    assert all(path in page for path in PATHS.values())


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_has_the_fields_of_its_description(client: TestClient, name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    description = client.get("/openapi.json").json()
    (media,) = description["paths"][PATHS[name]]["get"]["responses"]["200"]["content"].values()
    schema = {**media["schema"], "components": description["components"]}
    jsonschema.validate(client.get(PATHS[name], params=ANSWERS[name][0]).json(), schema)


def test_unreadable_record_is_reported_until_it_is_back(tmp_path: Path) -> None:
    record = make_record(tmp_path / "home", lambda folder: f"sqlite:///{folder / 'eatnas.db'}", births=2)
    client, file = new_client(record), record.settings.database_file
    assert file is not None
    with transaction(record.engine) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    answer = client.get("/api/search/list")
    assert (answer.status_code, answer.json()["error"]["field"]) == (503, None)
    assert "newer version" in answer.json()["error"]["message"]
    record.engine.dispose()
    away = file.rename(tmp_path / "away.db")
    assert "no record at" in client.get("/api/search/list").json()["error"]["message"]
    made = make_record(tmp_path / "other", lambda _: f"sqlite:///{file}", births=3, name="replaced")
    assert [row["name"] for row in client.get("/api/search/list").json()] == ["replaced"]
    made.engine.dispose()
    away.unlink()


@pytest.mark.parametrize("change", ["DROP TABLE eatnas_attempt", "ALTER TABLE eatnas_attempt DROP COLUMN failure"])
def test_incomplete_record_is_reported_in_one_line(tmp_path: Path, change: str) -> None:
    record = make_record(tmp_path / "home", lambda folder: f"sqlite:///{folder / 'eatnas.db'}", births=2)
    record.engine.dispose()
    with closing(sqlite3.connect(str(record.settings.database_file))) as connection:
        connection.execute(change)
    assert_incomplete(new_client(record))


def test_incomplete_record_on_postgresql_is_reported_in_one_line(postgres_record_url: str, tmp_path: Path) -> None:
    record = make_record(tmp_path / "home", lambda _: postgres_record_url, births=2)
    with transaction(record.engine) as connection:
        connection.execute(text("DROP TABLE eatnas_attempt CASCADE"))
    record.engine.dispose()
    assert_incomplete(new_client(record))


def assert_incomplete(client: TestClient) -> None:
    answer = client.get("/api/query/failures?name=small")
    assert answer.status_code == 503, answer.text
    message = answer.json()["error"]["message"]
    assert ("is not complete (" in message, "\n" in message) == (True, False), message


@pytest.mark.parametrize(
    ("bound", "allowed", "refused"),
    [
        (
            "127.0.0.1",
            ["localhost:8642", "[::1]:9999", "127.0.0.1"],
            ["evil.example.org:8642", "127.0.0.1.evil.example.org", "192.168.1.7:8642", ""],
        ),
        ("0.0.0.0", ["192.168.1.7:8642", "Lab.Example.org:8642"], ["evil.example.org:8642"]),
    ],
)
def test_host_header_must_name_the_server(record: Record, bound: str, allowed: list[str], refused: list[str]) -> None:
    client = new_client(record, bound)
    expected = dict.fromkeys(allowed, 200) | dict.fromkeys(refused, 421)
    assert {host: client.get("/api/search/list", headers={"Host": host}).status_code for host in expected} == expected


def test_other_sites_may_link_to_pages_without_reading_them(client: TestClient) -> None:
    other = {"Sec-Fetch-Site": "cross-site"}
    assert client.get("/api/search/list", headers={**other, "Sec-Fetch-Mode": "cors"}).status_code == 403
    assert client.get("/docs", headers={**other, "Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert "access-control-allow-origin" not in client.get("/api/search/list").headers


def test_token_is_accepted_as_header_and_by_a_login(record: Record) -> None:
    client = new_client(record, token=TOKEN, follow_redirects=False)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}, {"Cookie": "a=b"}):
        answer = client.get("/api/search/list", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert "printed an address with the token" in answer.json()["error"]["message"]
    assert client.get("/api/search/list", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    wrong = client.get("/docs?token=wrong")
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
    assert '<input name="token"' in wrong.text
    elsewhere = client.get(f"http://127.0.0.1:8642//evil.example.org/?token={TOKEN}").headers["location"]
    assert elsewhere == "/evil.example.org/"
    client.cookies.clear()
    login = client.get(f"/docs?a=1&token={TOKEN}&b=%26")
    assert (login.status_code, login.headers["location"]) == (303, "/docs?a=1&b=%26")
    cookie = login.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert client.get("/api/search/list").status_code == 200  # the client has kept the cookie


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("lab", False)],
)
def test_loopback_addresses_are_recognised(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@contextmanager
def running(record: Record, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the server with the command `serve`. Yield the process and the URL that it prints."""
    where = ["--home", str(record.settings.home), "--db", record.settings.database_url]
    line = [sys.executable, "-m", "eatnas_cli", *where, "serve", "--port", "0", *options]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first.startswith("serving http://"), process.stderr and process.stderr.read()
            yield process, first.split()[1]
        finally:
            process.kill()


@pytest.mark.slow
def test_interrupt_ends_the_server_at_once_during_a_query(record: Record) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with running(record) as (process, address), ThreadPoolExecutor(1) as pool:
        query = urllib.parse.urlencode({"question": endless, "timeout": 600})
        pending = pool.submit(urllib.request.urlopen, f"{address}api/query/sql?{query}", timeout=300)
        assert json.load(urllib.request.urlopen(f"{address}api/search/list"))[0]["name"] == "small"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        assert pending.exception(60) is not None


@pytest.mark.slow
def test_token_is_generated_where_others_can_connect(record: Record) -> None:
    with running(record, "--host", "0.0.0.0") as (_, address):
        assert re.search(r":(\d+)/\?token=[\w-]{32}$", address)
        port = address.rpartition("/")[0].rpartition(":")[2]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/search/list")
        token = address.partition("token=")[2]
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/search/list")
        request.add_header("Authorization", f"Bearer {token}")
        assert urllib.request.urlopen(request).status == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--token", "short"], "the token has 5 characters; choose one with 16 to 256"),
        (["--token", "with spaces in it it"], "without spaces"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:0"),
        (["--allow-host", ""], "'' is not a host name"),
        (["--allow-host", "lab.example.org:8642"], "'lab.example.org:8642' is not a host name"),
        (["--allow-host", "http://lab.example.org"], "'http://lab.example.org' is not a host name"),
    ],
)
def test_option_that_cannot_work_is_reported_in_one_line(
    eatnas_within, record: Record, options: list[str], message: str
) -> None:
    output = eatnas_within("serve", "--port", "0", *options, at=record.settings.home, expect=1)
    assert message in output
    assert len(output.splitlines()) == 1


def test_port_that_is_taken_is_reported_in_one_line(eatnas_within, record: Record) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        output = eatnas_within("serve", "--port", port, at=record.settings.home, expect=1)
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use); choose another --port" in output


def test_missing_record_is_reported_in_one_line(eatnas_within, tmp_path: Path) -> None:
    assert "run `eatnas-db init`" in eatnas_within("serve", "--port", "0", at=tmp_path / "none", expect=1)


@pytest.mark.slow
def test_read_only_home_is_served(record: Record) -> None:
    home = record.settings.home
    program = (
        "import sys; from pathlib import Path; from starlette.testclient import TestClient\n"
        "from eatnas_cli.web.access import AccessRules; from eatnas_cli.web.server import build_app\n"
        "from eatnas_db.settings import load_settings\n"
        "app = build_app(load_settings({}, sys.argv[1]), AccessRules('localhost', 80), '1')\n"
        "client = TestClient(app, base_url='http://localhost')\n"
        "print(client.get('/api/query/best?name=small').status_code)"
    )
    with without_write_permission(home):
        done = run_as_reader(program, str(home))
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
