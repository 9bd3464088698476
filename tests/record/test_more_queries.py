"""Lineage across searches, curves over compute, primitives, changes, the front, utilisation; and SQL of one's own."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import event, insert, select, update

from eatnas_db import adhoc_sql
from eatnas_db.database.dialects import is_postgresql
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import FailureKind
from eatnas_db.errors import ConflictError, NotFoundError
from eatnas_db.events import record_event
from eatnas_db.queries.candidates import get_candidate
from eatnas_db.queries.compute_curves import ComputeCurve, CurvePoint, list_compute_curves, list_levels_reached
from eatnas_db.queries.lineage import get_lineage, list_descendants
from eatnas_db.queries.mutations import list_mutation_statistics
from eatnas_db.queries.paging import Page
from eatnas_db.queries.pareto import list_front, list_tradeoffs
from eatnas_db.queries.population import list_population
from eatnas_db.queries.primitives import PRIMITIVES, list_primitives
from eatnas_db.queries.quality import list_steps
from eatnas_db.queries.ranking import list_best
from eatnas_db.queries.searches import get_search
from eatnas_db.queries.utilisation import get_utilisation
from eatnas_db.queries.views import VIEWS
from eatnas_db.schema.candidates import candidate, mutation
from eatnas_db.schema.hosts import worker
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import attempt
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retrain import create_reevaluation
from eatnas_db.searches.transfer import create_transfer
from eatnas_db.settings import Settings
from eatnas_db.transitions import record_failure

LARGE = {"name": "large", "space": "eatnas-small", "data": {"name": "FashionMNIST"}, "reevaluation": {"top": 0}}


ON_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@pytest.fixture
def train(engine, lease_factory, score_factory):
    """Trains a search to its end; a candidate's score is its id in per cent."""

    def to_the_end(search_id):
        while (leased := lease_factory(search_id)) is not None:
            score_factory(leased, leased.token.candidate / 100)
            with transaction(engine) as connection:
                advance_search(connection, lock_search(connection, search_id), 3.0)
        return search_id

    return to_the_end


@pytest.fixture
def small(search_factory, train):
    return train(search_factory("small"))


@pytest.fixture
def large(engine, small, train):
    """Transferred from the small one, whose three best were measured again."""
    with transaction(engine) as connection:
        create_reevaluation(connection, "small", top=3, seeds=2, now=4.0)
        reevaluation = get_search(connection, "small.reevaluation").id
    train(reevaluation)
    changes = {"evolution.population": 4, "evolution.tournament": 2, "evolution.lag": 3, "budget.candidates": 8}
    with transaction(engine) as connection:
        search_id = create_transfer(
            connection,
            "small",
            parse_spec(LARGE, changes),
            task=Task(28, 1, 10),
            data_digest="large",
            slots=2,
            now=9.0,
        )
    return train(search_id)


@pytest.fixture
def connection(engine):
    with read_transaction(engine) as connection:
        yield connection


def test_a_lineage_names_the_search_of_each_and_compares_fitness_within_one_alone(large, connection):
    (youngest,) = (
        connection.execute(select(candidate.c.id).where(candidate.c.search_id == large).order_by(candidate.c.id))
        .scalars()
        .all()[-1:]
    )
    line = get_lineage(connection, youngest)
    names = [one.search for one in line]
    assert names == sorted(names)
    assert set(names) == {"large", "small"}
    first = next(one for one in line if one.search == "small")
    child = line[line.index(first) - 1]
    assert (child.parent_id, child.gain) == (first.id, None)
    assert {one.search for one in list_descendants(connection, first.id)} >= {"large", "small"}


def test_a_perturbed_child_tells_all_its_changes_in_their_order(large, connection):
    places = select(mutation.c.candidate_id, mutation.c.block, mutation.c.ordinal).join(
        candidate, (candidate.c.id == mutation.c.candidate_id)
    )
    blocks = {}
    for number, block, _ in connection.execute(
        places.where(candidate.c.search_id == large).order_by(mutation.c.ordinal)
    ):
        blocks.setdefault(number, []).append(f"block {block}")
    several = {number: told for number, told in blocks.items() if len(told) > 1}
    assert several
    for number, told in several.items():
        child = get_lineage(connection, number)[0]
        assert [" ".join(change.split()[:2]) for change in child.changes] == told
        (among,) = (one for one in list_descendants(connection, child.parent_id) if one.id == number)
        assert among.changes == child.changes


def test_a_candidate_tells_what_it_inherited(engine, small):
    inherited = {"share_inherited": 0.5, "logit_distance": 0.25, "lineage_epochs": 6}
    with transaction(engine) as connection:
        connection.execute(update(candidate).where(candidate.c.id == 2).values(inherited))
        found = get_candidate(connection, 2)
    assert {name: getattr(found, name) for name in inherited} == inherited


def test_more_best_may_be_asked_for_than_a_statement_takes_numbers(small, connection):
    assert len(list_best(connection, small, 10**9)) == 12


def test_compute_is_summed_over_births_failed_attempts_included(engine, search_factory, lease_factory, train):
    search_id = search_factory("s", budget__candidates=6)
    lost = lease_factory(search_id)
    with transaction(engine) as connection:
        record_failure(connection, lost.token, FailureKind.LOST, "gone", device_seconds=10.0, now=1.0)
    train(search_id)
    with read_transaction(engine) as connection:
        assert [step.device_seconds for step in list_steps(connection, search_id)] == [
            11.0,
            12.0,
            13.0,
            14.0,
            15.0,
            16.0,
        ]


def test_of_many_steps_a_page_or_a_sample_with_the_last_is_read(engine, search_factory, train):
    search_id = train(search_factory("s", budget__candidates=7))
    with read_transaction(engine) as connection:

        def numbers(*after, **part):
            return [step.number for step in list_steps(connection, search_id, *after, **part)]

        assert numbers(page=Page(2, 3)) == [4, 5]
        assert numbers(max_points=3) == [3, 6, 7]
        assert numbers(3, max_points=4) == [4, 6, 7]
        assert numbers(max_points=100) == numbers() == [1, 2, 3, 4, 5, 6, 7]


def test_what_a_transfer_came_from_is_counted_in_unless_it_is_looked_at_alone(large, connection):
    both = list_compute_curves(connection, ["small", "large"])
    assert [course.seconds_before for course in both] == [0.0, 12.0 + 6.0]
    assert both[1].points[0].device_seconds == 18.0 + 4.0
    (alone,) = list_compute_curves(connection, ["large"], alone=True)
    assert (alone.seconds_before, alone.points[0].device_seconds, alone.points[0].step) == (0.0, 4.0, 4)
    with pytest.raises(NotFoundError):
        list_compute_curves(connection, ["small", "other"])


def test_levels_are_told_by_the_first_step_that_reaches_them_and_ratios_to_the_first_search():
    one = ComputeCurve("one", 0.0, (CurvePoint(1, 10.0, 0.5), CurvePoint(2, 20.0, 0.7), CurvePoint(3, 30.0, 0.6)))
    two = ComputeCurve("two", 0.0, (CurvePoint(1, 5.0, 0.6), CurvePoint(2, 8.0, 0.65)))
    rows = list_levels_reached([one, two], [0.6, 0.7])
    assert [(row.search, row.device_seconds, row.ratio) for row in rows] == [
        ("one", 20.0, 1.0),
        ("two", 5.0, 0.25),
        ("one", 20.0, 1.0),
        ("two", None, None),
    ]
    levels = [row.level for row in list_levels_reached([one, two])][::2]
    assert levels == pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7])
    assert list_levels_reached([ComputeCurve("empty", 0.0, ())]) == ()
    assert len(list_levels_reached([ComputeCurve("flat", 0.0, one.points[:1])])) == 1


def test_primitives_are_shares_of_the_population_of_each_step(small, connection):
    rows = list_primitives(connection, small, points=3)
    assert sorted({row.step for row in rows}) == [4, 8, 12]
    for step in (4, 8, 12):
        members = list_population(connection, small, step)
        for block in (1, 7):
            for primitive in PRIMITIVES:
                of = [row for row in rows if (row.step, row.block, row.primitive) == (step, block, primitive)]
                assert sum(row.members for row in of) == len(members)
                assert sum(row.share for row in of) == pytest.approx(1)
                mean = sum(row.members * row.mean_fitness for row in of) / len(members)
                assert mean == pytest.approx(sum(member.fitness for member in members) / len(members))
    assert list_primitives(connection, small, block=3, points=3) == tuple(row for row in rows if row.block == 3)
    with pytest.raises(NotFoundError, match="no member of the population has a block 99"):
        list_primitives(connection, small, block=99)


def test_kinds_of_change_count_children_and_average_what_they_gained(small, connection):
    rows = list_mutation_statistics(connection, small)
    assert sum(row.children for row in rows) == 8
    assert [row.mean_gain for row in rows] == sorted((row.mean_gain for row in rows), reverse=True)
    assert all(row.improved == 1 and row.joined == 1 and row.scored == row.children for row in rows)
    by_block = [row for block in range(1, 8) for row in list_mutation_statistics(connection, small, block)]
    assert sum(row.children for row in by_block) == 8


def test_perturbations_are_not_counted_as_changes_that_paid(large, connection):
    assert sum(row.children for row in list_mutation_statistics(connection, large)) == 4


@pytest.mark.parametrize("cost", ["mult_adds", "params"])
def test_the_front_is_what_no_other_beats_at_both(small, connection, cost):
    everything = list_tradeoffs(connection, small)
    assert len(everything) == 12

    def beaten(one):
        return any(
            other.accuracy >= one.accuracy
            and getattr(other, cost) <= getattr(one, cost)
            and (other.accuracy, getattr(other, cost)) != (one.accuracy, getattr(one, cost))
            for other in everything
        )

    front = list_front(connection, small, cost)
    assert set(front) == {one for one in everything if not beaten(one)}
    assert [getattr(one, cost) for one in front] == sorted(getattr(one, cost) for one in front)
    assert len(list_tradeoffs(connection, small, max_points=4)) == 4


@pytest.mark.parametrize("cost", ["mult_adds", "params"])
def test_the_front_is_walked_along_its_index_and_nothing_is_sorted(engine, small, cost):
    with read_transaction(engine) as connection:
        asked = []
        event.listen(connection, "before_cursor_execute", lambda *seen: asked.append((seen[2], seen[3])))
        list_front(connection, small, cost)
        walk, explain = list(asked), "EXPLAIN" if is_postgresql(engine) else "EXPLAIN QUERY PLAN"
        if is_postgresql(engine):
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        plans = [str(connection.exec_driver_sql(f"{explain} {sql}", given).all()) for sql, given in walk]
    assert len(plans) > 1
    assert all(f"ix_eatnas_candidate_by_{cost}" in plan for plan in plans)
    assert not any("Sort" in plan or "TEMP B-TREE" in plan for plan in plans)


def test_utilisation_is_busy_time_over_wall_time(engine, small):
    with transaction(engine) as connection:
        whole = {"started_at": 0.0, "ended_at": 1.0, "outcome": "scored", "device_seconds": 0.5}
        connection.execute(update(attempt).values(**whole))
        connection.execute(update(attempt).where(attempt.c.candidate_id == 1).values(ended_at=None, outcome=None))
        connection.execute(update(attempt).where(attempt.c.candidate_id > 2).values(ended_at=0.0))
        found = get_utilisation(connection, small, now=8.0)
    (slot,) = found.slots
    assert (found.wall_seconds, found.device_seconds, found.scored) == (8.0, 12.0, 12)
    assert (slot.host, slot.slot, slot.attempts, slot.busy_seconds, slot.busy) == ("here", 0, 12, 9.0, 1.0)
    assert slot.training == found.training == 12 * 0.5 / 8.0
    assert found.candidates_per_hour == 3600 * 12 / 8


def test_why_slots_were_idle_is_told_with_its_seconds(engine, search_factory):
    """Slot 0 of here: a worker from 2 to 10, another from 14 on; a candidate in hand from 3 to 7 and from 15 to 20."""
    search_id, other = search_factory("s"), search_factory("other")

    def attempts(connection, search_id, worker_id, *spans):
        ids = connection.execute(select(candidate.c.id).where(candidate.c.search_id == search_id))
        taken = set(connection.execute(select(attempt.c.candidate_id)).scalars())
        free = (one for one in ids.scalars() if one not in taken)
        for begun, ended in spans:
            values = {
                "started_at": begun,
                "ended_at": ended,
                "outcome": "scored",
                "device_seconds": ended - begun - 1.0,
            }
            connection.execute(insert(attempt).values(candidate_id=next(free), number=1, worker_id=worker_id, **values))

    with transaction(engine) as connection:
        yielded = {"ended_at": 10.0, "ending": "wanted by pid 7"}
        connection.execute(update(worker).values(started_at=2.0, **yielded))
        second = insert(worker).values(id=2, device_id=1, slot=0, pid=2, started_at=14.0)
        later = connection.execute(second.returning(worker.c.id)).scalar_one()
        attempts(connection, search_id, 1, (3.0, 7.0))
        attempts(connection, search_id, later, (15.0, 20.0))
        attempts(connection, other, 1, (8.0, 10.0))
        attempts(connection, other, later, (20.0, 30.0))
        for kind, at in (("paused", 7.5), ("resumed", 7.75)):
            record_event(connection, at, kind, search_id=search_id)
        found = get_utilisation(connection, search_id, now=40.0)
    assert found.wall_seconds == 17.0
    told = {one.cause: one.seconds for one in found.idle}
    assert told == {
        "a worker loaded data, built a network or wrote a checkpoint": 2.0,
        "a worker trained for other searches": 2.0,
        "the search was paused": 0.25,
        "a worker waited for a candidate": 1.75,
        "no worker was running; the last one ended: wanted by pid 7": 4.0,
    }
    (slot,) = found.slots
    assert slot.device_seconds + sum(told.values()) == found.wall_seconds
    assert [one.share for one in found.idle] == [one.seconds / 17.0 for one in found.idle]


def test_a_search_that_was_never_trained_has_answers_too(search_factory, connection):
    search_id = search_factory("new")
    assert list_steps(connection, search_id) == ()
    assert list_primitives(connection, search_id) == ()
    assert list_front(connection, search_id) == ()
    assert list_mutation_statistics(connection, search_id) == ()
    found = get_utilisation(connection, search_id, now=1.0)
    assert (found.wall_seconds, found.candidates_per_hour, found.busy, found.slots) == (0.0, None, None, ())
    assert found.training is None
    assert list_levels_reached(list_compute_curves(connection, ["new"])) == ()


@ON_SQLITE
def test_the_new_questions_read_candidates_by_index(engine, large, small):
    asked = []
    with read_transaction(engine) as connection:
        event.listen(connection, "before_cursor_execute", lambda *seen: asked.append((seen[2], seen[3])))
        for question in (list_steps, list_primitives, list_mutation_statistics, list_front, list_tradeoffs):
            question(connection, small)
        get_utilisation(connection, small, 0.0)
        list_compute_curves(connection, ["large"])
        get_lineage(connection, 1)
        plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", given).all() for sql, given in list(asked)]
    steps_of = [row[3] for plan in plans for row in plan]
    read_whole = [words for words in steps_of if words.startswith("SCAN eatnas_") and "INDEX" not in words]
    assert set(read_whole) <= {"SCAN eatnas_host", "SCAN eatnas_device", "SCAN eatnas_worker", "SCAN eatnas_search"}


@pytest.fixture
def settings(engine, tmp_path):
    return Settings(tmp_path, engine.url.render_as_string(hide_password=False))


def test_every_view_has_the_columns_that_the_page_promises(settings, small):
    page = (Path(__file__).parents[2] / "docs" / "queries.md").read_text()
    for name in VIEWS:
        answer = adhoc_sql.run_query(settings, f"SELECT * FROM {name}")
        assert f"| `{name}` | {', '.join(answer.columns)} |" in page


def test_a_question_in_sql_is_answered(settings, small):
    answer = adhoc_sql.run_query(
        settings,
        "SELECT kernel, count(*) AS n FROM blocks JOIN candidates ON candidates.id = candidate_id "
        "WHERE candidates.search = 'small' AND position = 5 AND joined IS NOT NULL GROUP BY kernel ORDER BY kernel",
    )
    assert answer.columns == ("kernel", "n")
    assert sum(count for _, count in answer.rows) == 12
    some = adhoc_sql.run_query(settings, "SELECT id FROM candidates", limit=5)
    assert (len(some.rows), some.truncated) == (5, True)
    assert adhoc_sql.run_query(settings, "SELECT NULL, 'ä';").rows == ((None, "ä"),)
    assert adhoc_sql.run_query(
        settings, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT max(i) FROM n"
    ).rows == ((9,),)


@ON_SQLITE
def test_bytes_are_told_as_hexadecimal(settings, small):
    assert adhoc_sql.run_query(settings, "SELECT x'00ff'").rows == (("00ff",),)


@ON_SQLITE
@pytest.mark.parametrize(
    "question",
    [
        "ATTACH '{file}' AS other",
        "VACUUM INTO '{file}'",
        "VACUUM",
        "PRAGMA user_version = 9",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA writable_schema = ON",
        "SELECT * FROM pragma_journal_mode('delete')",
        "SELECT load_extension('{file}')",
        "SELECT fts3_tokenizer('simple')",
        "INSERT INTO eatnas_record VALUES (2, 'x', 0) RETURNING id",
        "UPDATE eatnas_candidate SET fitness = 1 RETURNING id",
        "WITH a AS (SELECT 1) DELETE FROM eatnas_event RETURNING id",
        "REPLACE INTO eatnas_record VALUES (1, 'x', 0)",
        "CREATE TABLE mine (a)",
        "CREATE TEMP TABLE mine (a)",
        "CREATE TEMP TRIGGER t BEFORE INSERT ON eatnas_event BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE mine USING fts5(a)",
        "DROP VIEW candidates",
        "DROP TABLE eatnas_event",
        "ALTER TABLE eatnas_event ADD COLUMN mine",
        "REINDEX",
        "ANALYZE",
        "BEGIN EXCLUSIVE",
        "SAVEPOINT s",
        "DETACH main",
    ],
)
def test_sql_can_change_nothing(settings, small, tmp_path, question):
    file = tmp_path / "other.db"
    database = settings.database_file
    before = (database.read_bytes(), sorted(one.name for one in tmp_path.iterdir()))
    with pytest.raises(ConflictError, match="only a single SELECT"):
        adhoc_sql.run_query(settings, question.format(file=file))
    assert (database.read_bytes(), sorted(one.name for one in tmp_path.iterdir())) == before
    assert not file.exists()


@ON_SQLITE
@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("SELECT 1; SELECT 2", "only a single SELECT"),
        ("SELECT 1; DROP TABLE eatnas_event", "only a single SELECT"),
        ("", "the query is empty"),
        ("-- nothing", "the query is empty"),
        ("SELEC", "the query is invalid"),
        ("SELECT \0", "the query is invalid"),
        ("SELECT nought FROM candidates", "no such column: nought"),
        ("SELECT * FROM candidate", "the views are searches, candidates"),
        ("SELECT randomblob(1000000000)", "select a part of it"),
    ],
)
def test_what_is_wrong_with_a_question_is_told(settings, small, question, words):
    with pytest.raises(ConflictError, match=words):
        adhoc_sql.run_query(settings, question)


@pytest.mark.parametrize(
    "question",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0",
        "SELECT count(*) FROM events a, events b, events c, events d, events e, events f, events g, events h",
    ],
)
def test_a_runaway_question_is_stopped(settings, small, question):
    with pytest.raises(ConflictError, match=r"took longer than 0\.2 seconds"):
        adhoc_sql.run_query(settings, question, seconds=0.2)


@ON_SQLITE
def test_a_question_neither_waits_for_a_writer_nor_holds_one_up(settings, small, engine):
    with transaction(engine) as writer:
        writer.execute(update(search).values(priority=7))
        assert adhoc_sql.run_query(settings, "SELECT count(*) FROM searches").rows == ((1,),)
    with sqlite3.connect(settings.database_file, timeout=0) as other:
        assert other.execute("SELECT priority FROM eatnas_search").fetchone() == (7,)
    other.close()


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("DELETE FROM eatnas_event", "only a single SELECT"),
        ("WITH gone AS (DELETE FROM eatnas_event RETURNING id) SELECT * FROM gone", "only a single SELECT"),
        ("SELECT 1) AS a; COMMIT; DELETE FROM eatnas_event; SELECT * FROM (SELECT 1", "multiple commands"),
        ("SELECT set_config('transaction_read_only', 'off', true)", "read-write mode"),
        ("SELECT lo_create(0)", "read-only transaction"),
        ("SELECT 1; SELECT 2", "only a single SELECT"),
        ("", "only a single SELECT"),
        ("SELECT nought FROM candidates", "nought"),
        ("SELECT * FROM candidate", "the views are searches, candidates"),
    ],
)
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_on_a_server_sql_can_change_nothing_either(settings, small, question, words):
    if settings.database_file is not None:
        pytest.skip("there is no server")
    before = adhoc_sql.run_query(settings, "SELECT count(*) FROM eatnas_event").rows
    with pytest.raises(ConflictError, match=words):
        adhoc_sql.run_query(settings, question)
    assert adhoc_sql.run_query(settings, "SELECT count(*) FROM eatnas_event").rows == before


def test_sql_needs_neither_alembic_nor_pydantic():
    code = "import sys, eatnas_db.adhoc_sql; assert not {'alembic', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
