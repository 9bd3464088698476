"""The promotion rule, and the order of candidates on different rungs."""

import pytest

from eatnas_db.domain.evolution import Member, rank, select_removed, summarize_population
from eatnas_db.domain.rungs import RungResult, Rungs, is_promoted, on_highest_rung, rungs_of
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import Origin
from eatnas_db.errors import InvalidSpecError

SPEC = {"name": "s", "data": {"name": "digits"}, "training": {"epochs": 30}}


def spec(**fidelity):
    return parse_spec({**SPEC, "evolution": {"fidelity": fidelity}})


def stored(**fidelity):
    return spec(**fidelity).model_dump(mode="json")


def results(*fitnesses, promoted=()):
    return [RungResult(fitness, fitness in promoted) for fitness in fitnesses]


def test_the_first_births_see_too_few_results_to_continue():
    assert not is_promoted(0.9, [], 0.5)
    assert is_promoted(0.9, results(0.8), 0.5)


def test_only_the_best_share_continues():
    earlier = results(0.1, 0.2, 0.3, 0.4, 0.5)
    assert is_promoted(0.45, earlier, 0.34)
    assert not is_promoted(0.35, earlier, 0.34)


def test_tie_goes_to_the_earlier_birth():
    assert not is_promoted(0.5, results(0.5), 0.5)


def test_no_candidate_continues_once_the_share_has_continued():
    earlier = results(0.1, 0.2, 0.3, promoted=(0.1, 0.2))
    assert not is_promoted(0.9, earlier, 0.5)
    assert is_promoted(0.9, earlier, 0.75)


def test_whole_training_is_the_last_rung():
    assert rungs_of(stored(rungs=[3, 10])).epochs == (3, 10, 30)
    assert rungs_of(stored(rungs=[3, 10, 30])).epochs == (3, 10, 30)


@pytest.mark.parametrize("origin", [Origin.REEVALUATION, Origin.FINAL, Origin.RETRY])
def test_retrained_candidate_gets_the_whole_training(origin):
    assert rungs_of(stored(rungs=[3]), origin) is None


def test_stored_spec_without_rungs_has_no_new_key():
    assert "fidelity" not in parse_spec(SPEC).model_dump(mode="json")["evolution"]


@pytest.mark.parametrize(
    ("fidelity", "message"),
    [
        ({"rungs": [10, 3]}, "evolution.fidelity.rungs: expected epochs in ascending order"),
        ({"rungs": [0, 3]}, "evolution.fidelity.rungs: expected epochs in ascending order"),
        ({"rungs": [3, 31]}, "evolution.fidelity.rungs [3, 31]: the first rung must be less than training.epochs (30)"),
        ({"rungs": [30]}, "evolution.fidelity.rungs [30]: the first rung must be less than training.epochs (30)"),
        ({"rungs": [True]}, "a boolean (true, false) is not allowed here"),
        ({"rungs": [3], "keep": 0}, "evolution.fidelity.keep"),
        ({"rungs": [3], "schedule": "cosine"}, "evolution.fidelity.schedule"),
        ({"keep": 0.3}, "evolution.fidelity.rungs: required key is missing"),
    ],
)
def test_bad_rungs_are_refused_in_one_line(fidelity, message):
    with pytest.raises(InvalidSpecError) as error:
        spec(**fidelity)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_rungs_cannot_be_combined_with_several_objectives():
    metrics = [{"metric": "val_accuracy"}, {"metric": "params", "direction": "minimize"}]
    with pytest.raises(InvalidSpecError, match="cannot be combined with objective"):
        parse_spec({**SPEC, "evolution": {"fidelity": {"rungs": [3]}}, "objective": {"metrics": metrics}})


@pytest.mark.parametrize("section", ["inheritance", "transfer"])
def test_rungs_cannot_be_combined_with_inherited_weights(section):
    tree = {**SPEC, "evolution": {"fidelity": {"rungs": [3]}}, section: {"weights": "inherited"}}
    with pytest.raises(InvalidSpecError, match="cannot be combined with inherited weights"):
        parse_spec(tree)


POPULATION = [
    Member(number + 1, number, number + 1, fitness, code, rung=rung)
    for number, (fitness, code, rung) in enumerate([(0.9, "a", 0), (0.5, "b", 1), (0.6, "c", 1)])
]


def test_higher_rung_ranks_above_any_fitness():
    assert [member.birth for member in rank(POPULATION)] == [2, 1, 0]
    assert select_removed(POPULATION, 2, "worst", seed=0, step=3) == POPULATION[0]


def test_quality_is_that_of_the_highest_rung():
    assert on_highest_rung(POPULATION) == POPULATION[1:]
    summary = summarize_population(POPULATION)
    assert (summary.size, summary.best) == (3, 0.6)
    assert summary.mean == pytest.approx(0.55)


@pytest.mark.parametrize(
    ("resumes", "mean"), [(True, 3 + 0.25 * 7 + 0.0625 * 20), (False, 3 + 0.25 * 10 + 0.0625 * 30)]
)
def test_mean_epochs_weight_rungs_by_their_share(resumes, mean):
    rungs = Rungs((3, 10, 30), 0.25, resumes)
    assert rungs.mean_epochs == pytest.approx(mean)
    assert rungs.mean_trainings == 1 + 0.25 + 0.0625
