"""The questions to the record, asked of a small search whose scores are arithmetic."""

import csv
import gc
import io
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from sqlalchemy import Connection, Engine, event, insert, text
from typer.testing import CliRunner

from eatnas_cli.candidate import app as candidate_app
from eatnas_cli.query.app import app as query_app
from eatnas_cli.space import app as space_app
from eatnas_db import provenance, queries, training_record, transitions
from eatnas_db.database.engine import create_engine_for
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import ConflictError, InvalidArchitectureError, NotFoundError
from eatnas_db.queries.candidates import get_candidate
from eatnas_db.queries.events import list_events
from eatnas_db.queries.failures import list_failures
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.lineage import get_lineage, list_descendants
from eatnas_db.queries.population import list_population
from eatnas_db.queries.progress import get_progress
from eatnas_db.queries.quality import list_steps
from eatnas_db.queries.ranking import list_best
from eatnas_db.queries.searches import get_search, list_searches
from eatnas_db.schema.hosts import device as device_table
from eatnas_db.schema.hosts import host, worker
from eatnas_db.schema.metadata import metadata
from eatnas_db.schema.record import REVISION, VERSION_TABLE
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.create import create_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.settings import Settings, load_settings

BIRTHS = 24
POPULATION = 6
FAILING = 9
MODULES = sorted(file.stem for file in Path(queries.__file__).parent.glob("[!_]*.py"))


@dataclass(frozen=True)
class Record:
    engine: Engine
    settings: Settings
    search_id: int


def make_record(folder, new_url, *, start=1000.0, device="cpu", name="small", births=BIRTHS, scores_from=1) -> Record:
    """A search trained to its end, unless it is to stop after fewer births."""
    folder.mkdir(exist_ok=True)
    settings = Settings(folder, new_url(folder))
    engine = create_engine_for(settings.database_url)
    metadata.create_all(engine)
    spec = parse_spec(
        {
            "name": name,
            "seed": 5,
            "space": "eatnas-tiny",
            "data": {"name": "digits"},
            "evolution": {"population": POPULATION, "tournament": 3, "lag": 3},
            "budget": {"candidates": BIRTHS},
            "reevaluation": {"top": 0},
        }
    )
    with transaction(engine) as connection:
        connection.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32))"))
        connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES ('{REVISION}')"))
        connection.execute(insert(host).values(id=1, name="h", seen_at=start))
        connection.execute(insert(device_table).values(id=1, host_id=1, uuid="u", kind="cpu", name=device))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=start))
        search_id = create_search(connection, spec, task=Task(8, 1, 10), data_digest="d" * 64, slots=1, now=start)
        for number in range(births):
            train_one(connection, search_id, start + number, device, scores_from)
    return Record(engine, settings, search_id)


def train_one(connection: Connection, search_id: int, now: float, device: str, scores_from: int) -> None:
    leased = transitions.lease_next(connection, search_id, host_id=1, worker_id=1, now=now)
    assert leased is not None
    if leased.birth == FAILING:
        transitions.record_failure(connection, leased.token, FailureKind.DIVERGED, "loss is \x1b[31mnan", now=now)
    else:
        fitness = scores_from / (3 + leased.birth * 7 % 11)
        report = training_record.EpochRecord(
            number=0,
            train_loss=1 - fitness,
            train_accuracy=fitness,
            val_loss=1.5 - fitness,
            val_accuracy=fitness,
            learning_rate=0.1,
            seconds=now % 7,
            ended_at=now,
        )
        training_record.record_epochs(connection, leased.token, [report], now)
        transitions.record_score(
            connection,
            leased.token,
            fitness=fitness,
            metrics={"val_accuracy": fitness, "fitness": fitness},
            seed=7,
            provenance=provenance.Provenance(f"p-{device}", {"lr": 0.1}, "d" * 64, {"torch": "2"}, device, "x"),
            device_seconds=2.0,
            now=now + 0.5,
        )
    advance_search(connection, lock_search(connection, search_id), now)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def new_url(request):
    """The address of a fresh database: each question is asked of both kinds."""
    if request.param == "sqlite":
        return lambda folder: f"sqlite:///{folder / 'eatnas.db'}"
    postgres = request.getfixturevalue("postgres")
    return lambda _: postgres.new_database()


@pytest.fixture(scope="module")
def record(tmp_path_factory, new_url):
    made = make_record(tmp_path_factory.mktemp("record"), new_url)
    yield made
    made.engine.dispose()


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory):
    """For what asks no record."""
    return Record(None, load_settings({}, str(tmp_path_factory.mktemp("nowhere"))), 0)


@pytest.fixture
def connection(record):
    with read_transaction(record.engine) as connection:
        yield connection


def ask(app, record, *arguments):
    outer = typer.Typer()

    @outer.callback()
    def settle(ctx: typer.Context) -> None:
        ctx.obj = record.settings

    outer.add_typer(app, name="it")
    result = CliRunner().invoke(outer, ["it", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_search_is_found_by_name_with_its_status(record, connection):
    found = get_search(connection, "small")
    assert (found.id, found.status, found.seed, found.born) == (record.search_id, "finished", 5, BIRTHS)
    assert list_searches(connection) == (found,)
    with pytest.raises(NotFoundError, match=r"no search named 'smal'; the newest searches are: small"):
        get_search(connection, "smal")


@pytest.mark.parametrize(
    ("wish", "waiting", "finished", "status"),
    [
        ("run", None, None, "running"),
        ("run", "no data", None, "waiting: no data"),
        ("paused", "no data", None, "paused"),
        ("paused", None, 1.0, "finished"),
        ("cancelled", None, 1.0, "cancelled"),
    ],
)
def test_the_status_is_derived(tmp_path, wish, waiting, finished, status, new_url):
    made = make_record(tmp_path, new_url, births=0)
    with transaction(made.engine) as connection:
        connection.execute(search.update().values(wish=wish, waiting=waiting, finished_at=finished))
        assert get_search(connection, "small").status == status
    made.engine.dispose()


def test_the_best_come_first_and_of_equals_the_elder(record, connection):
    rows = list_best(connection, record.search_id, 100)
    assert len(rows) == BIRTHS - 1
    assert list(rows) == sorted(rows, key=lambda row: (-row.fitness, row.birth))
    assert list_best(connection, record.search_id, 3) == rows[:3]
    assert all((row.parent_birth is None) == (row.origin == "random") for row in rows)


def test_a_lineage_leads_to_the_root_and_names_each_change(record, connection):
    youngest = max(list_best(connection, record.search_id, 100), key=lambda row: row.birth)
    line = get_lineage(connection, youngest.id)
    assert line[0].birth == youngest.birth
    assert (line[-1].parent_id, line[-1].origin, line[-1].changes, line[-1].gain) == (None, "random", (), None)
    for child, parent in pairwise(line):
        assert child.parent_id == parent.id
        assert child.gain == child.fitness - parent.fitness
        (change,) = child.changes
        assert change.startswith("block ")
        assert " → " in change
        assert "True" not in change
        assert "False" not in change


def test_descendants_are_the_lineages_backwards(record, connection):
    rows = list_best(connection, record.search_id, 100)
    root = get_lineage(connection, max(rows, key=lambda row: row.birth).id)[-1]
    found = {row.id for row in list_descendants(connection, root.id)}
    scored = {row.id for row in rows}
    assert found & scored == {row.id for row in rows if get_lineage(connection, row.id)[-1].id == root.id}


@pytest.mark.parametrize("candidate", [0, -1, 4711, 2**80])
def test_an_unknown_candidate_is_told(connection, candidate):
    for question in (get_lineage, list_descendants, get_candidate):
        with pytest.raises(NotFoundError, match="no candidate"):
            question(connection, candidate)


def test_the_population_at_every_step_has_the_size_and_best_of_that_step(record, connection):
    rows = list_steps(connection, record.search_id)
    assert [row.number for row in rows] == list(range(1, BIRTHS + 1))
    for row in rows:
        members = list_population(connection, record.search_id, row.number)
        assert (len(members), max(member.fitness for member in members)) == (row.size, row.best)
    assert list_population(connection, record.search_id) == list_population(connection, record.search_id, BIRTHS)
    assert list_population(connection, record.search_id, 0) == ()
    assert list_steps(connection, record.search_id, after=20) == rows[20:]
    with pytest.raises(NotFoundError, match="its steps are 0 to 24"):
        list_population(connection, record.search_id, BIRTHS + 1)


def test_events_are_the_last_ones_newest_last(record, connection):
    everything = list_events(connection, record.search_id, limit=1000)
    assert [row.id for row in everything] == sorted(row.id for row in everything)
    assert everything[0].kind == "created"
    assert everything[-1].detail == {"why": "done"}
    assert list_events(connection, record.search_id, limit=3) == everything[-3:]
    assert list_events(connection, after=everything[-3].id) == everything[-2:]


def test_failures_say_why(record, connection):
    (row,) = list_failures(connection, record.search_id)
    assert (row.birth, row.attempt, row.failure, row.state) == (FAILING, 1, "diverged", "failed")


def test_progress_counts(record, connection):
    found = get_progress(connection, record.search_id)
    assert (found.done, found.scored, found.failed, found.pending, found.leased) == (24, 23, 1, 0, 0)
    assert (found.best, found.device_seconds, found.started_at) == (1 / 3, 46.0, 1000.0)


@pytest.mark.parametrize("new_url", ["sqlite"], indirect=True)
def test_progress_in_the_middle_reads_no_table_from_end_to_end(tmp_path, new_url):
    made = make_record(tmp_path, new_url, births=10)
    statements = []
    with transaction(made.engine) as connection:
        transitions.lease_next(connection, made.search_id, host_id=1, worker_id=1, now=2000)
    with read_transaction(made.engine) as connection:
        event.listen(connection, "before_cursor_execute", lambda *seen: statements.append((seen[2], seen[3])))
        found = get_progress(connection, made.search_id)
        asked = list(statements)
        plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", given).all() for sql, given in asked]
    assert found.born == found.done + found.pending + found.leased
    assert (found.done, found.leased) == (10, 1)
    scans = {row[3] for plan in plans for row in plan if row[3].startswith("SCAN")}
    assert scans <= {"SCAN eatnas_lease"}
    made.engine.dispose()


def test_a_candidate_is_shown_whole(record, connection):
    best = list_best(connection, record.search_id, 1)[0]
    found = get_candidate(connection, best.id)
    assert (found.search, found.code, len(found.blocks), len(found.epochs)) == ("small", best.code, 7, 1)
    assert [(row.metric, row.seed) for row in found.scores] == [("fitness", 7), ("val_accuracy", 7)]
    assert found.attempts[0].outcome == "scored"


def test_a_fingerprint_knows_neither_times_nor_devices_but_results(tmp_path, record, connection, new_url):
    first = get_fingerprint(connection, record.search_id)
    assert first.candidates == BIRTHS
    prints = []
    for number, other in enumerate(({"start": 5.0, "device": "gpu", "name": "b"}, {"scores_from": 1.0000001})):
        made = make_record(tmp_path / str(number), new_url, **other)
        with read_transaction(made.engine) as reader:
            prints.append(get_fingerprint(reader, made.search_id))
        made.engine.dispose()
    assert prints[0] == first
    assert prints[1] != first


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE eatnas_epoch SET val_loss = val_loss + 1e-15 WHERE candidate_id = 3",
        "UPDATE eatnas_score SET value = value + 1e-16 WHERE candidate_id = 24",
        "UPDATE eatnas_score SET seed = 8 WHERE candidate_id = 1",
        "UPDATE eatnas_provenance SET data_digest = 'x'",
        "UPDATE eatnas_provenance SET recipe = '{}'",
        "UPDATE eatnas_mutation SET block = block + 1",
        'UPDATE eatnas_candidate SET "left" = NULL WHERE id = 2',
        "UPDATE eatnas_candidate SET parent_id = 1 WHERE id = 20",
        "UPDATE eatnas_search SET seed = 6",
    ],
)
def test_a_fingerprint_sees_every_result(tmp_path, record, connection, change, new_url):
    made = make_record(tmp_path, new_url)
    with transaction(made.engine) as writer:
        assert writer.execute(text(change)).rowcount > 0
        assert get_fingerprint(writer, made.search_id) != get_fingerprint(connection, record.search_id)
    made.engine.dispose()


QUESTIONS = ["best", "lineage", "population", "quality", "events", "failures", "fingerprint"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_has_three_forms(record, question):
    as_json = json.loads(ask(query_app, record, question, "small", "--format", "json"))
    as_csv = list(csv.DictReader(io.StringIO(ask(query_app, record, question, "small", "--format", "csv"))))
    assert len(as_json) == len(as_csv) > 0
    assert set(as_csv[0]) <= set(as_json[0])
    table = ask(query_app, record, question, "small")
    assert "\x1b" not in table
    assert len(table.splitlines()) >= len(as_json)


def test_a_number_and_a_name_lead_to_a_lineage(record, connection):
    best = list_best(connection, record.search_id, 1)[0]
    by_name = ask(query_app, record, "lineage", "small")
    assert by_name == ask(query_app, record, "lineage", best.id)
    assert f"{best.id}, birth {best.birth}" in by_name
    assert "└── " in ask(query_app, record, "descendants", 1) or len(list_descendants(connection, 1)) == 1


def test_a_candidates_logs_and_record_are_shown(record):
    with pytest.raises(NotFoundError, match="has no log"):
        ask(candidate_app, record, "logs", 2)
    record.settings.logs.mkdir(exist_ok=True)
    (record.settings.logs / "candidate-1.log").write_bytes(b"epoch 0\n\xff\n")
    assert ask(candidate_app, record, "logs", 1) == "epoch 0\n�\n"
    assert json.loads(ask(candidate_app, record, "show", 1, "--format", "json"))["birth"] == 0
    assert "val accuracy" in ask(candidate_app, record, "show", 1)
    assert "field,value" in ask(candidate_app, record, "show", 1, "--format", "csv")


def test_a_failed_candidate_is_retried_then_cancelled(tmp_path, new_url):
    made = make_record(tmp_path, new_url)
    failed = FAILING + 1
    assert "pending again" in ask(candidate_app, made, "retry", failed)
    assert "cancelled" in ask(candidate_app, made, "cancel", failed)
    for action, error in (("retry", ConflictError), ("cancel", ConflictError)):
        with pytest.raises(error):
            ask(candidate_app, made, action, failed)
        with pytest.raises(NotFoundError):
            ask(candidate_app, made, action, 999)
    made.engine.dispose()


def test_spaces_are_shown(nowhere):
    assert "eatnas-cifar" in ask(space_app, nowhere, "show")
    assert (
        len(
            json.loads(
                "[" + ask(space_app, nowhere, "show", "eatnas-tiny", "--format", "json").replace("}\n{", "},{") + "]"
            )
        )
        == 7
    )
    with pytest.raises(NotFoundError, match="did you mean eatnas-tiny"):
        ask(space_app, nowhere, "show", "eatnas-tin")


def test_ten_thousand_codes_are_counted_within_two_seconds(nowhere, tmp_path):
    few = ask(space_app, nowhere, "sample", "--count", 100, "--format", "json")
    file = tmp_path / "codes"
    file.write_text(few * 100)
    begun = time.process_time()
    answer = ask(space_app, nowhere, "cost", file, "--format", "json")
    assert time.process_time() - begun < 2  # of this process, however busy the machine is
    assert answer == few * 100
    begun = time.process_time()
    assert len(ask(space_app, nowhere, "cost", file).strip().splitlines()) == 10_002
    assert time.process_time() - begun < 2  # of this process, however busy the machine is


def test_both_forms_of_a_code_cost_the_same(nowhere, tmp_path):
    code = [[2, 0, 1, 3, 1.0]] * 7
    lines = [
        {"code": code, "classes": 10, "mine": "kept"},
        {"code": "/".join(["mb6_k3_d4_w1.0_skip"] * 7), "classes": 10, "resolution": 32, "channels": 3},
    ]
    file = tmp_path / "codes"
    file.write_text("\n\n".join(map(json.dumps, lines)))
    first, second = map(json.loads, ask(space_app, nowhere, "cost", file, "--format", "json").splitlines())
    assert first["mine"] == "kept"
    assert first["code"] == code
    assert (first["params"], first["mult_adds"]) == (second["params"], second["mult_adds"])
    assert f"{first['params']:,}" in ask(space_app, nowhere, "cost", file)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"classes": 10}',
        b'{"code": 3, "classes": 10}',
        b'{"code": "sep", "classes": 10}',
        b'{"code": [[0,0,0,0,1.0]], "classes": 10}',
        b'{"code": [[0,0,0,0,[]]], "classes": 10}',
        b'{"code": [[0,0,0,0,1.0]]}',
        b'{"code": [[0,0,0,0,1.0]], "classes": true}',
        b'{"code": [[0,0,0,0,1.0]], "classes": 10, "resolution": 0}',
        b'{"code": [[0,0,0,0,NaN]], "classes": 10}',
        b'{"code": "\\ud800\\n", "classes": 10}',
    ],
)
def test_a_bad_line_is_named_in_one_line(nowhere, tmp_path, line):
    file = tmp_path / "codes"
    good = json.dumps({"code": [[0, 0, 0, 0, 1.0]] * 7, "classes": 10}).encode()
    file.write_bytes(good + b"\n" + line + b"\n")
    with pytest.raises(InvalidArchitectureError, match=r"^line 2: [^\n]+$") as raised:
        ask(space_app, nowhere, "cost", file)
    str(raised.value).encode()


@pytest.mark.parametrize("module", MODULES)
def test_a_query_loads_neither_alembic_nor_pydantic(module):
    code = f"import sys, eatnas_db.queries.{module}; assert not {{'alembic', 'pydantic'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", ["query", "printing", "space"])
def test_the_command_lines_parts_load_nothing_heavy(module):
    heavy = {"sqlalchemy", "pydantic", "rich", "alembic", "torch", "mlflow"}
    code = f"import sys, eatnas_cli.{module}; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_while_reading_python_looks_for_no_cycles_and_afterwards_does_again(engine):
    def ask():
        with read_transaction(engine):
            with read_transaction(engine):
                assert not gc.isenabled()
            assert not gc.isenabled()
            raise ZeroDivisionError

    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        ask()
    assert gc.isenabled()
