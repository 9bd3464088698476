"""`query …` as a user types it: queries across searches, page by page, and in SQL."""

import csv
import io
import json
import statistics

import pytest
from sqlalchemy import update

from eatnas_db.database.transactions import transaction
from eatnas_db.domain.final_recipe import FINAL_PRESETS
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.searches import search
from support.arithmetic_searches import train


@pytest.fixture
def eatnas(eatnas_within):
    return eatnas_within


def asked(eatnas, *arguments):
    return json.loads(eatnas("query", *arguments, "--format", "json"))


def test_best_candidates_show_reevaluations_if_any_exist(eatnas, large):
    row = asked(eatnas, "best", "small")[0]
    assert (row["id"], row["reevaluation_seeds"]) == (10, 2)
    assert row["reevaluation"] == pytest.approx(0.115)
    assert row["reevaluation_spread"] == pytest.approx(statistics.stdev([0.11, 0.12]))
    assert "reevaluation seeds" in eatnas("query", "best", "small")
    assert "reevaluation" not in eatnas("query", "best", "large")
    assert asked(eatnas, "best", "large")[0]["reevaluation"] is None


def test_lineage_shows_where_the_search_changes(eatnas, large):
    rows = asked(eatnas, "lineage", "large")
    assert {row["search"] for row in rows} == {"small", "large"}
    output = eatnas("query", "lineage", "large")
    first, *others = output.splitlines()
    assert first.startswith("small: ")
    assert sum("large: " in line for line in others) == 1
    assert all(": block" in line or "basic" in line for line in others)
    family = eatnas("query", "descendants", "10")
    assert family.startswith("small: 10, ")
    assert family.count("large: ") == 4
    assert family.count("small.reevaluation: ") == 2
    assert "small: " not in eatnas("query", "lineage", "10")


def test_candidate_shows_its_inherited_share(eatnas, engine, small):
    with transaction(engine) as connection:
        connection.execute(update(candidate).values(share_inherited=0.75, logit_distance=0.125, lineage_epochs=9))
    row = asked(eatnas, "best", "small", "--where", "lineage_epochs>8", "--limit", "1")[0]
    assert (row["share_inherited"], row["lineage_epochs"]) == (0.75, 9)
    assert asked(eatnas, "population", "small")[0]["share_inherited"] == 0.75
    assert asked(eatnas, "lineage", "small")[0]["lineage_epochs"] == 9
    assert ", 75% inherited, 9 epochs in total" in eatnas("query", "lineage", "small")
    for question in ("best", "population"):
        assert "share inherited   lineage epochs" in eatnas("query", question, "small")
    output = eatnas("candidate", "show", "3")
    for words in ("share_inherited  0.7500", "logit_distance   0.1250", "lineage_epochs   9"):
        assert " ".join(words.split()) in " ".join(output.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "question",
    ["compare", "primitives", "mutations", "pareto", "utilisation", "quality"],
)
def test_every_query_has_three_formats(eatnas, large, question):
    found = asked(eatnas, question, "large")
    columns, *rows = csv.reader(io.StringIO(eatnas("query", question, "large", "--format", "csv")))
    assert rows
    if isinstance(found, list):
        assert len(rows) == len(found)
        assert set(columns) == set(found[0])
    assert len(eatnas("query", question, "large").splitlines()) > 3


def test_compare_uses_compute_and_given_levels(eatnas, large):
    rows = asked(eatnas, "compare", "small", "large", "--by", "best", "--level", "0.05", "--level", "0.2")
    assert [(row["search"], row["level"], row["device_seconds"]) for row in rows] == [
        ("small", 0.05, 5.0),
        ("large", 0.05, 10.0 + 2 + 4),
        ("small", 0.2, None),
        ("large", 0.2, 10.0 + 2 + 8),
    ]
    assert rows[1]["ratio"] == 16 / 5
    (alone,) = asked(eatnas, "compare", "large", "--by", "best", "--level", "0.2", "--alone")
    assert alone["device_seconds"] == 8.0


def test_compare_shows_a_repeated_search_once(eatnas, large):
    assert asked(eatnas, "compare", "small", "large", "small") == asked(eatnas, "compare", "small", "large")


@pytest.mark.parametrize(
    ("question", "option"),
    [
        (("quality", "small"), "--curve"),
        (("quality", "small"), "--picture"),
        (("compare", "small"), "--picture"),
        (("pareto", "small"), "--picture"),
        (("primitives", "small"), "--picture"),
        (("lineage", "small"), "--picture"),
        (("descendants", "1"), "--picture"),
    ],
)
def test_plot_has_no_format_for_numbers(eatnas, large, tmp_path, question, option):
    file = tmp_path / "plot.png"
    options = [option, str(file)] if option == "--picture" else [option]
    message = eatnas("query", *question, *options, "--format", "json", expect=1)
    assert f"{option} draws a plot, so it cannot be combined with --format json" in message
    assert not file.exists()


@pytest.mark.parametrize("columns", [",", "", "id,"])
def test_empty_name_of_a_column_is_an_error(eatnas, large, columns):
    message = eatnas("query", "best", "small", "--columns", columns, expect=1)
    assert "no column ''; the columns are: id, birth" in message


def test_paged_primitives_have_a_line_per_value_and_step(eatnas, small):
    output = eatnas("query", "primitives", "small", "--sort", "-share", "--limit", "3", "--format", "csv")
    table = eatnas("query", "primitives", "small", "--sort", "-share", "--limit", "3")
    rows = [line.split(",") for line in output.splitlines()]
    assert rows[0] == ["step", "block", "primitive", "value", "members", "share", "mean_fitness"]
    shares = [float(row[5]) for row in rows[1:]]
    assert len(shares) == 3
    assert shares == sorted(shares, reverse=True)
    assert table.split()[:4] == ["step", "block", "primitive", "value"]


def test_primitives_have_a_column_per_step(eatnas, small):
    output = eatnas("query", "primitives", "small", "--block", "2", "--points", "2")
    head = output.splitlines()[1].split()
    assert head == ["block", "primitive", "value", "step", "5", "step", "10", "mean", "fitness"]
    assert "kernel" in output
    assert "%" in output


def test_lists_are_paged_sorted_and_filtered(eatnas, small):
    ids = [row["id"] for row in asked(eatnas, "best", "small")]
    assert ids == list(range(10, 0, -1))
    assert [row["id"] for row in asked(eatnas, "best", "small", "--limit", "3", "--offset", "2")] == [8, 7, 6]
    assert [row["id"] for row in asked(eatnas, "best", "small", "--where", "origin=random", "--sort", "birth")] == [
        1,
        2,
        3,
        4,
    ]
    dearest = asked(eatnas, "best", "small", "--sort", "-params", "--limit", "1")[0]["params"]
    assert dearest == max(row["params"] for row in asked(eatnas, "best", "small"))
    steps_ = asked(eatnas, "quality", "small", "--where", "number>3", "--where", "number<=5")
    assert [row["number"] for row in steps_] == [4, 5]
    assert len(asked(eatnas, "population", "small", "--limit", "2")) == 2
    assert asked(eatnas, "failures", "small", "--sort", "-attempt") == []
    assert "no column 'brith'; the columns are: id, birth" in eatnas(
        "query", "best", "small", "--sort", "brith", expect=1
    )


def test_families_fronts_mutations_and_events_are_paged_too(eatnas, large):
    best = asked(eatnas, "lineage", "large", "--where", "search=large", "--sort", "birth", "--limit", "1")
    assert [row["search"] for row in best] == ["large"]
    # Selected rows do not form a tree, so the command prints a table.
    assert "generation" in eatnas("query", "descendants", "10", "--limit", "2")
    front = asked(eatnas, "pareto", "small")
    assert asked(eatnas, "pareto", "small", "--offset", "1") == front[1:]
    assert {row["primitive"] for row in asked(eatnas, "primitives", "small", "--where", "primitive=op")} == {"op"}
    kinds = asked(eatnas, "mutations", "small", "--sort", "-children")
    assert [row["children"] for row in kinds] == sorted((row["children"] for row in kinds), reverse=True)
    scored = asked(eatnas, "events", "small", "--kind", "scored")
    assert len(scored) == 10
    assert asked(eatnas, "events", "small", "--kind", "scored", "--offset", "9") == scored[:1]


def test_sql_query_reports_omitted_rows(eatnas, small):
    assert asked(eatnas, "sql", "SELECT search, count(*) AS n FROM candidates GROUP BY search") == [
        {"search": "small", "n": 10}
    ]
    assert asked(eatnas, "sql", "SELECT 1 AS a, 2 AS a") == [{"a": 1, "a_1": 2}]
    assert len(asked(eatnas, "sql", "SELECT id FROM candidates", "--limit", "4")) == 4
    assert asked(eatnas, "sql", "SELECT 1 WHERE 0") == []
    assert "only a single SELECT" in eatnas("query", "sql", "DELETE FROM eatnas_event", expect=1)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    assert "longer than 0.1 seconds" in eatnas("query", "sql", endless, "--timeout", "0.1", expect=1)


@pytest.mark.slow
def test_final_models_are_created_shown_and_counted(eatnas, engine, small):
    output = eatnas("search", "final", "small", "--seeds", "2", "--epochs", "3")
    assert output.startswith("search small.final created: 2 trainings of 3 epochs on 1437 images, each evaluated once")
    with transaction(engine) as connection:
        train(connection, get_search(connection, "small.final").id, "test_accuracy")
    row = asked(eatnas, "best", "small")[0]
    assert (row["id"], row["test_seeds"], row["reevaluation"]) == (10, 2, None)
    assert row["test"] == pytest.approx(0.115)
    assert "test spread" in eatnas("query", "best", "small")
    assert json.loads(eatnas("search", "show", "small", "--format", "json"))["test_looks"] == 2
    assert "--again" in eatnas("search", "final", "small", "--epochs", "3", expect=1)


def test_final_models_follow_the_preset_and_the_changed_keys(eatnas, engine, small):
    eatnas("search", "final", "small", "--preset", "strong", "--set", "ema_decay=0.5", "--epochs", "3")
    with transaction(engine) as connection:
        source, tests = (get_search(connection, name) for name in ("small", "small.final"))
    preset = {**FINAL_PRESETS["strong"], "epochs": 3, "ema_decay": 0.5}
    assert tests.spec["training"] == {**source.spec["training"], **preset}
    assert "write key=value" in eatnas("search", "final", "small", "--set", "ema_decay", expect=1)
    words = eatnas("search", "final", "small", "--set", "ema_dekay=1", expect=1)
    assert words.startswith("eatnas-db: final.ema_dekay: unknown key 'ema_dekay'; did you mean ema_decay")
    assert words.count("\n") == 1


def test_final_model_requires_a_test_part(eatnas, engine, small, home):
    with transaction(engine) as connection:
        spec = {**get_search(connection, "small").spec, "data": {"name": "MNIST", "root": None}}
        connection.execute(update(search).values(spec=spec))
    words = eatnas("search", "final", "small", expect=1)
    assert words.startswith("eatnas-db: MNIST: no ")
    assert words.count("\n") == 1
    assert len(json.loads(eatnas("search", "list", "--format", "json"))) == 1
