"""Answers without rows repeat the request, state that nothing was found, and give the reason."""

import json

import pytest

from eatnas_cli.search.estimate import _count_trainings, _estimate_durations, _estimate_final, _Measured
from eatnas_cli.search.retrain import describe_shortage
from eatnas_daemon.data_sets import DataDescription
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.queries.event_messages import EVENT_KINDS

UNTRAINED = "none of its candidates has a score (2 waiting); `eatnas-db run tiny` trains it\n"


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("best tiny", f"search 'tiny' has no scored candidate: {UNTRAINED}"),
        (
            "best tiny --where fitness>0.5",
            f"search 'tiny' has no scored candidate with --where fitness>0.5: {UNTRAINED}",
        ),
        ("population tiny", f"search 'tiny' has no member of the population: {UNTRAINED}"),
        ("population tiny --at 0", f"search 'tiny' has no member of the population after step 0: {UNTRAINED}"),
        ("pareto tiny", f"search 'tiny' has no scored candidate: {UNTRAINED}"),
        ("quality tiny", f"search 'tiny' has no step with a scored member: {UNTRAINED}"),
        ("quality tiny --curve", f"search 'tiny' has no step with a scored member: {UNTRAINED}"),
        ("primitives tiny", f"search 'tiny' has no value of a block in its population: {UNTRAINED}"),
        ("mutations tiny --block 2", f"search 'tiny' has no mutation of block 2: {UNTRAINED}"),
        ("compare tiny", f"search 'tiny' has no complete initial population yet: {UNTRAINED}"),
        (
            "calibration tiny",
            "search 'tiny' has no predictions: it was created without `evolution.births: guided`\n",
        ),
        ("failures tiny", "search 'tiny' has no failed or lost attempt\n"),
        (
            "failures tiny --where failure=hang",
            "search 'tiny' has no failed or lost attempt with --where failure=hang\n",
        ),
        ("events tiny --kind scored", "no event of search tiny of kind scored\n"),
        ("events --candidate 1 --kind failed", "no event of candidate 1 of kind failed\n"),
        ("sql SELECT~1~WHERE~1=2", "the query returned no rows\n"),
        ("descendants 1 --where birth=7", "no candidate of this family meets the conditions birth=7\n"),
    ],
)
def test_empty_answer_gives_the_reason(tiny, eatnas_within, question, words):
    arguments = [part.replace("~", " ") for part in question.split()]
    assert eatnas_within("query", *arguments) == words
    if "--curve" not in arguments:
        assert json.loads(eatnas_within("query", *arguments, "--format", "json")) == []


def test_condition_without_a_match_is_named(large, eatnas_within):
    assert eatnas_within("query", "best", "small", "--where", "birth>99") == (
        "search 'small' has no scored candidate with --where birth>99\n"
    )


@pytest.mark.parametrize("question", ["quality", "primitives", "pareto", "compare"])
def test_no_picture_of_nothing_is_drawn(tiny, eatnas_within, tmp_path, question):
    file = tmp_path / "picture.png"
    assert "nothing to draw: search 'tiny' has no " in eatnas_within(
        "query", question, "tiny", "--picture", str(file), expect=1
    )
    assert not file.exists()


def test_unknown_event_kind_lists_all_kinds(large, eatnas_within):
    message = eatnas_within("query", "events", "--kind", "finishd", expect=1)
    assert message == (
        f"eatnas-db: no event kind 'finishd'; did you mean finished?; the kinds are: {', '.join(EVENT_KINDS)}\n"
    )
    stored = {
        row["kind"] for row in json.loads(eatnas_within("query", "events", "--limit", "1000", "--format", "json"))
    }
    assert stored <= set(EVENT_KINDS)


@pytest.mark.slow
def test_searches_on_different_tasks_are_not_comparable(large, eatnas, home):
    done = eatnas("query", "compare", "small", "large", "--level", "0.05", whole=True)
    assert "the tasks of these searches differ, so their scores are not comparable (small: digits, 8x8x1" in done.stderr
    assert not eatnas("query", "compare", "small", "small.reevaluation", "--level", "0.05", whole=True).stderr


def test_reevaluation_does_not_count_its_own_seconds_twice(large, eatnas_within):
    rows = json.loads(
        eatnas_within("query", "compare", "small.reevaluation", "--by", "best", "--level", "0.1", "--format", "json")
    )
    assert rows[0]["device_seconds"] == 10 + 2


def test_estimate_counts_larger_images_of_final_models():
    final = {"epochs": 8, "end_resolution": 16, "end_epochs": 2}
    spec = parse_spec({"name": "s", "data": {"name": "digits"}, "final": final})
    data = DataDescription(
        resolution=8, channels=1, classes=10, train_images=1000, validation_images=500, test_images=0, data_digest="d"
    )
    estimate = _estimate_final(spec, Task(8, 1, 10), data, seconds_per_epoch=10)
    assert (estimate.epochs, estimate.images) == (8, 1500)
    assert estimate.hours == pytest.approx(10 * 1.5 * (6 + 2 * 4) / 3600)


def test_estimate_adds_the_setup_of_each_training():
    measured = _Measured(setup_seconds=3, seconds_per_epoch=2, images_per_second=1, paper_hours=None)
    assert measured.seconds_of(trainings=10, epochs=40) == 10 * 3 + 40 * 2


def test_estimate_counts_the_trainings_of_the_reevaluation():
    tree = {"name": "s", "data": {"name": "digits"}, "budget": {"candidates": 50}, "training": {"epochs": 10}}
    trainings = _count_trainings(parse_spec(tree))
    assert (trainings.search_epochs, trainings.reevaluation, trainings.reevaluation_epochs) == (500, 12, 120)
    changes = {
        "inheritance": {"weights": "inherited", "epochs": 2},
        "reevaluation": {"top": 9, "seeds": 2, "epochs": 20},
    }
    trainings = _count_trainings(parse_spec({**tree, **changes}))
    assert (trainings.search_epochs, trainings.reevaluation_epochs) == (20 * 10 + 30 * 2, 9 * 2 * 20)
    assert _count_trainings(parse_spec({**tree, "reevaluation": {"top": 0}})).reevaluation == 0


def test_estimate_adds_a_setup_for_each_rung():
    tree = {"name": "s", "data": {"name": "digits"}, "budget": {"candidates": 40}, "training": {"epochs": 10}}
    fidelity = {"rungs": [2], "keep": 0.25}
    spec = parse_spec({**tree, "evolution": {"fidelity": fidelity}, "reevaluation": {"top": 0}})
    assert _count_trainings(spec).search == 40 * 1.25
    estimated = estimate_durations(spec, setup_seconds=3600, seconds_per_epoch=0)
    assert (estimated.candidate_seconds, estimated.hours) == (1.25 * 3600, 25)


def test_seconds_per_candidate_are_the_mean_with_inherited_weights():
    tree = {"name": "s", "data": {"name": "digits"}, "budget": {"candidates": 40}, "training": {"epochs": 10}}
    changes = {"evolution": {"population": 20}, "inheritance": {"weights": "inherited", "epochs": 2}}
    estimated = estimate_durations(parse_spec({**tree, **changes}), setup_seconds=6, seconds_per_epoch=600)
    assert (estimated.candidate_seconds, estimated.hours) == (6 + 6 * 600, 40 * (6 + 6 * 600) / 2 / 3600)


def estimate_durations(spec, **seconds):
    """Estimate the durations of a search on two slots."""
    measured = _Measured(**seconds, images_per_second=1, paper_hours=None)
    data = DataDescription(
        resolution=8, channels=1, classes=10, train_images=10, validation_images=5, test_images=0, data_digest="d"
    )
    return _estimate_durations(spec, Task(8, 1, 10), data, measured, 2)


def test_final_models_on_several_devices_note_a_shortage():
    assert describe_shortage(2, gpus=0, cores=2) is None
    assert "needs 4 cores, but this machine has 2" in describe_shortage(4, gpus=0, cores=2)
    assert "start the daemon with --devices cpu" in describe_shortage(2, gpus=1, cores=8)
