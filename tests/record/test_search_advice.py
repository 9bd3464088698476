"""The advice about a planned search: the noise of scores, a smaller task, and sources that agree."""

import shlex
from itertools import pairwise

import pytest
from sqlalchemy import select

from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.guidance.proposals import fit_source
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.search_advice import advise
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retrain import create_reevaluation
from eatnas_db.searches.search_space import feasible_space
from eatnas_db.yaml_files import parse_yaml
from support.databases import ON_SQLITE
from support.open_transactions import observed_calls

pytestmark = ON_SQLITE
SPEC = {"name": "planned", "space": "eatnas-tiny", "data": {"name": "digits"}}
SOURCE = {"evolution__population": 5, "evolution__tournament": 2, "evolution__lag": 4, "budget__candidates": 12}


def score_of(code):
    return sum(1 for block in code.split("/") if block.startswith("mb6")) / 10 + len(code) % 7 / 1000


@pytest.fixture
def finished(engine, search_factory, lease_factory, score_factory):
    """Return a function that trains a search to its end."""

    def train(name, score=score_of, search_id=None, **overrides):
        search_id = search_factory(name, **{**SOURCE, **overrides}) if search_id is None else search_id
        while (leased := lease_factory(search_id)) is not None:
            with read_transaction(engine) as connection:
                query = select(candidate.c.code, candidate.c.replica).where(candidate.c.id == leased.token.candidate)
                code, replica = connection.execute(query).one()
            score_factory(leased, score(code) + replica / 100)
            with transaction(engine) as connection:
                advance_search(connection, lock_search(connection, search_id), 3.0)
        return search_id

    return train


@pytest.fixture
def ask(engine):
    def advise_on(changes=None, data_digest="digits", train_images=1000, file="spec.yaml", flags=()):
        spec = parse_spec(SPEC, changes)
        space = feasible_space(spec, Task(8, 1, 10))
        options = {"data_digest": data_digest, "train_images": train_images, "file": file, "changes": flags}
        return advise(engine, spec, space, **options)

    return advise_on


def test_empty_record_names_one_command(ask):
    advice = ask()
    assert (advice.noise, advice.spread, advice.sources) == (None, None, ())
    assert len(advice.missing) == 1
    assert "eatnas-db search create spec.yaml --set name=planned-pilot" in advice.missing[0]


def test_pilot_needs_no_source(ask):
    model = {"evolution.births": "guided", "transfer.start": "model", "transfer.sources": ["known"]}
    sentence = ask(model, file="my specs/spec.yaml").missing[0]
    words = shlex.split(sentence[sentence.index("eatnas-db") :])
    assert words[:4] == ["eatnas-db", "search", "create", "my specs/spec.yaml"]
    changes = dict(word.split("=") for before, word in pairwise(words) if before == "--set")
    pilot = parse_spec(SPEC, {**model, **{key: parse_yaml(value) for key, value in changes.items()}})
    assert (pilot.name, pilot.transfer.start, pilot.transfer.sources) == ("planned-pilot", "perturbations", ())


def test_pilot_keeps_the_changes_of_the_command(ask, search_factory):
    flags = ["training.epochs=3", "name=planned", "budget.candidates=500"]
    sentence = ask(flags=flags).missing[0]
    assert "--set training.epochs=3 --set name=planned-pilot --set budget.candidates=8 &&" in sentence
    search_factory("planned-pilot")
    assert ask(flags=flags).missing[0].endswith("pilot: eatnas-db run planned-pilot")


def test_pilot_of_a_long_name_has_an_allowed_name(ask):
    long = "x" * 64
    assert f"--set name={long[:58]}-pilot " in ask({"name": long}).missing[0]


def test_noise_comes_from_repeated_trainings(engine, finished, ask):
    finished("known")
    with transaction(engine) as connection:
        create_reevaluation(connection, "known", top=2, seeds=3, now=9.0)
        reevaluation = get_search(connection, "known.reevaluation").id
        digest = get_search(connection, "known").data_digest
    assert ask(data_digest=digest).missing[0].endswith("eatnas-db run known")
    finished("", search_id=reevaluation)
    advice = ask(data_digest=digest)
    assert advice.noise.deviation == pytest.approx(0.01)
    assert (advice.noise.networks, advice.noise.trainings, advice.noise.same_task) == (2, 6, True)
    assert advice.spread.late
    assert advice.resolution.ratio == pytest.approx(0.01 / advice.spread.deviation)
    assert advice.missing == ()
    other = ask({"training.epochs": 3}, data_digest="other")
    assert (other.noise.same_task, other.spread.same_task) == (False, False)


def test_sources_are_compared_with_a_search_of_the_task(engine, finished, ask):
    finished("agrees", seed=8)
    finished("disagrees", lambda code: -score_of(code), seed=9)
    finished("loss", objective__metric="val_loss", objective__direction="minimize")
    assert {source.verdict for source in ask(data_digest="new").sources} == {"unknown"}
    finished("pilot", seed=10)
    with read_transaction(engine) as connection:
        digest = get_search(connection, "pilot").data_digest
    with transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE eatnas_search SET data_digest = 'elsewhere' WHERE name != 'pilot'")
    with observed_calls(engine, fit_source) as calls:
        sources = {source.search: source for source in ask(data_digest=digest).sources}
    assert calls == [("fit_source", 0)] * 2
    assert list(sources) == ["pilot", "agrees", "disagrees"]
    assert sources["pilot"].verdict == "same task"
    assert sources["agrees"].reference == "pilot"
    assert sources["agrees"].correlation > 0 > sources["disagrees"].correlation
    assert sources["disagrees"].verdict == "disagrees"


def test_smaller_task_is_priced_by_its_mult_adds(ask):
    smaller = ask({"training.epochs": 8, "data.resolution": 8}).smaller
    assert (smaller.resolution, smaller.train_images, smaller.epochs) == (8, 250, 4)
    assert smaller.share == pytest.approx(1 / 8)
    assert smaller.trainings == pytest.approx(4)
    assert ask(train_images=0).smaller is None


def test_search_without_a_reevaluation_plans_no_seeds(ask):
    assert ask({"reevaluation.seeds": 2}).reevaluation_seeds == 2
    assert ask({"reevaluation.seeds": 2, "reevaluation.top": 0}).reevaluation_seeds == 0


def test_equal_scores_tell_nothing(finished, ask):
    finished("flat", lambda code: 0.5)
    finished("other", seed=8)
    advice = ask(data_digest="data")
    assert {source.search: source.verdict for source in advice.sources} == {"flat": "unknown", "other": "same task"}
    assert advice.resolution is None
