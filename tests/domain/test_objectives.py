import pytest
from hypothesis import given
from hypothesis import strategies as st

from eatnas_db.domain.evolution import Member, rank, run_tournament, select_removed
from eatnas_db.domain.objective import Direction, Objective
from eatnas_db.domain.objectives import (
    OptimizedMetric,
    choose_reference,
    list_objectives,
    relative_hypervolume,
    select_values,
)
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.spec import parse_spec
from eatnas_db.errors import InvalidSpecError, MetricError

MINIMAL = {"name": "first", "data": {"name": "digits"}}
ACCURACY, MULT_ADDS = {"metric": "val_accuracy"}, {"metric": "mult_adds"}
LATENCY = {"metric": "latency_ms", "device": "cpu", "batch": 1}
BOTH = (OptimizedMetric("val_accuracy", Direction.MAXIMIZE), OptimizedMetric("mult_adds", Direction.MINIMIZE))


def parse(objective, **evolution):
    return parse_spec({**MINIMAL, "objective": objective, "evolution": evolution})


def population(*values):
    return [Member(100 + birth, birth, birth + 1, value[0], "", value) for birth, value in enumerate(values)]


def test_a_list_is_short_for_metrics():
    spec = parse([ACCURACY, MULT_ADDS])
    assert spec == parse({"metrics": [ACCURACY, MULT_ADDS]})
    assert list_objectives(spec.model_dump(mode="json")) == BOTH
    assert parse_spec(spec.model_dump(mode="json")) == spec
    limited = parse({"metrics": [ACCURACY, MULT_ADDS], "max_params": 1000})
    assert limited.objective.max_params == 1000


def test_fitness_is_the_first_metric_of_the_training():
    stored = parse([MULT_ADDS, {"metric": "val_loss"}, ACCURACY]).model_dump(mode="json")
    assert Objective.from_spec(stored) == Objective("val_loss", Direction.MINIMIZE)


def test_latency_is_stored_with_all_its_settings():
    stored = parse([ACCURACY, {"metric": "latency_ms"}]).model_dump(mode="json")["objective"]["metrics"][1]
    assert stored == {
        "metric": "latency_ms",
        "direction": "minimize",
        "device": "cpu",
        "batch": 1,
        "threads": 1,
        "runs": 30,
    }


def test_specs_with_one_objective_store_no_metrics():
    assert "metrics" not in parse({"max_params": 1000}).model_dump(mode="json")["objective"]
    assert list_objectives(parse({}).model_dump(mode="json")) == ()


@pytest.mark.parametrize("removal", ["oldest", "mixed"])
def test_several_objectives_remove_the_worst_rank_by_default(removal):
    assert parse([ACCURACY, MULT_ADDS]).evolution.removal == "worst"
    assert parse([ACCURACY, MULT_ADDS], removal=removal).evolution.removal == removal
    assert parse({}).evolution.removal == "oldest"


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ([ACCURACY], "objective.metrics: a list needs at least 2 metrics and has only val_accuracy"),
        ([], "at least 2 metrics and has none"),
        ([ACCURACY, ACCURACY], "objective.metrics: val_accuracy is given twice"),
        ([LATENCY, {**LATENCY, "batch": 8}], "latency_ms is given twice"),
        ([ACCURACY, {"metric": "latency"}], "unknown metric 'latency'; did you mean latency_ms?"),
        ([ACCURACY, {**LATENCY, "batch": 0}], "objective.metrics.1.batch: input should be greater than or equal to 1"),
        ([ACCURACY, {**LATENCY, "batch": 4097}], "less than or equal to 4096 (given: 4097)"),
        ([ACCURACY, {**LATENCY, "threads": 0}], "objective.metrics.1.threads"),
        ([ACCURACY, {**LATENCY, "threads": 2000}], "objective.metrics.1.threads"),
        ([ACCURACY, {**LATENCY, "runs": 2}], "objective.metrics.1.runs"),
        ([ACCURACY, {**LATENCY, "device": "tpu"}], "objective.metrics.1.device: input should be 'cpu' or 'cuda'"),
        ([ACCURACY, {**MULT_ADDS, "device": "cpu"}], "apply to latency_ms only; remove them from mult_adds"),
        ([ACCURACY, {**MULT_ADDS, "metrc": "params"}], "unknown key 'metrc'; did you mean metric?"),
        ([ACCURACY, "params"], "objective.metrics.1: expected a section of keys and values"),
        ({"metrics": ACCURACY}, "objective.metrics: expected a list"),
        ({"metrics": [ACCURACY, MULT_ADDS], "target_mult_adds": 9}, "cannot be combined"),
        ({"metrics": [ACCURACY, MULT_ADDS], "direction": "minimize"}, "direction and metrics cannot be combined"),
        ([LATENCY, MULT_ADDS], "add a metric of the training"),
        ([ACCURACY, MULT_ADDS, LATENCY, {"metric": "params"}, {"metric": "val_loss"}], "at most 4 metrics"),
        ([ACCURACY, {**MULT_ADDS, "direction": "up"}], "input should be 'maximize' or 'minimize'"),
    ],
)
def test_bad_objectives_are_refused_in_one_line(objective, words):
    with pytest.raises(InvalidSpecError) as raised:
        parse(objective)
    assert words in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("evolution", "words"),
    [
        (
            {"births": "guided"},
            "evolution: `births: guided` models a single objective, so it cannot be combined with objective.metrics",
        ),
        ({"population": 1001}, "evolution.population is at most 1000 with 2 metrics (given: 1001)"),
    ],
)
def test_evolution_must_fit_several_objectives(evolution, words):
    with pytest.raises(InvalidSpecError, match="evolution") as raised:
        parse([ACCURACY, MULT_ADDS], **evolution)
    assert words in str(raised.value)


def test_front_and_crowding_decide_and_ties_go_to_the_older():
    # Members 1 and 4 are equal, member 3 is dominated, and member 5 lies in the most crowded place.
    members = population((0.9, -90.0), (0.1, -10.0), (0.5, -50.0), (0.4, -60.0), (0.1, -10.0), (0.45, -45.0))
    assert [member.birth for member in rank(members)] == [0, 1, 2, 5, 4, 3]
    assert select_removed(members, 5, "worst", seed=1, step=6).birth == 3
    assert select_removed(members[:3] + members[4:], 4, "worst", seed=1, step=6).birth == 4
    assert run_tournament(members, len(members), KeyedRng(1, "tournament", 7)).birth == 0


@given(st.permutations(population((0.9, -9.0), (0.5, -9.0), (0.9, -9.0), (0.2, -1.0), (0.5, -2.0))))
def test_the_order_of_the_rows_does_not_matter(members):
    assert [member.birth for member in rank(members)] == [0, 3, 4, 2, 1]


def test_a_metric_without_a_finite_value_is_an_error():
    assert select_values(BOTH, {"val_accuracy": 0.5, "mult_adds": 7, "params": 3}) == (0.5, 7.0)
    with pytest.raises(MetricError, match="the objective mult_adds has no value"):
        select_values(BOTH, {"val_accuracy": 0.5})
    with pytest.raises(MetricError, match="the objective val_accuracy is nan"):
        select_values(BOTH, {"val_accuracy": float("nan"), "mult_adds": 7})


def test_hypervolume_counts_in_multiples_of_the_reference():
    reference = choose_reference(BOTH, [(0.5, 100.0), (0.6, 200.0)])
    assert reference == (0.0, 200.0)
    assert relative_hypervolume(BOTH, [(0.5, -100.0), (0.6, -200.0)], reference) == pytest.approx(0.25)
    assert choose_reference(BOTH, []) is None
