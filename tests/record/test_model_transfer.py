"""With `transfer.start: model`, the scores of finished searches guide a new search."""

import pytest
from sqlalchemy import event, func, select, update

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.errors import ConflictError, InvalidSpecError, NotFoundError
from eatnas_db.integrity.replay import check_replay
from eatnas_db.integrity.sources import check_sources
from eatnas_db.queries.calibration import list_predictions
from eatnas_db.queries.compute_curves import list_compute_curves
from eatnas_db.queries.events import list_events
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.lineage import get_lineage
from eatnas_db.queries.paging import Page
from eatnas_db.queries.predictions import get_predicted_fitness
from eatnas_db.queries.ranking import list_best
from eatnas_db.queries.searches import get_search
from eatnas_db.record_files import FileFormat, export_record, import_record
from eatnas_db.schema.candidates import candidate, prediction
from eatnas_db.schema.searches import search, transfer_source
from eatnas_db.searches.advance import advance_search, settle_births
from eatnas_db.searches.delete import delete_search
from eatnas_db.searches.fitted_sources import write_with_sources
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.prepared_births import prepare_births
from eatnas_db.searches.retrain import create_reevaluation
from eatnas_db.searches.transfer import create_transfer
from eatnas_db.searches.transfer_model import describe_difference
from eatnas_db.transfer_sources import list_stored_sources, read_sources
from support.databases import ON_SQLITE
from support.empty_records import create_empty_record

SOURCE = {"evolution__population": 8, "evolution__tournament": 2, "evolution__lag": 4, "budget__candidates": 12}
TARGET = {
    "name": "large",
    "space": "eatnas-small",
    "data": {"name": "FashionMNIST"},
    "evolution": {"births": "guided", "population": 8, "tournament": 2, "lag": 4},
    "transfer": {"start": "model"},
    "budget": {"candidates": 10},
}


def depth_of(code):
    """Score an architecture by the number of its layers, which a model learns easily."""
    return sum(int(block.split("_")[3 if block.split("_")[2] == "skip" else 2][1:]) for block in code.split("/")) / 100


@pytest.fixture
def run(engine, lease_factory, score_factory):
    """Return a function that trains a search to its end. Its argument `score` maps a code to its fitness."""

    def train(search_id, score=depth_of, births=None):
        while (leased := lease_factory(search_id)) is not None:
            with read_transaction(engine) as connection:
                query = select(candidate.c.code, candidate.c.birth).where(candidate.c.id == leased.token.candidate)
                code, birth = connection.execute(query).one()
            score_factory(leased, score(code) + birth * 1e-6)
            with transaction(engine) as connection:
                advance_search(connection, lock_search(connection, search_id), 3.0)
            if births is not None and birth == births - 1:
                break
        return search_id

    return train


@pytest.fixture
def finished(search_factory, run):
    def make(name="small", score=depth_of, **overrides):
        return run(search_factory(name, **{**SOURCE, **overrides}), score)

    return make


def transfer(engine, source="small", tree=TARGET, changes=None, **options):
    spec = parse_spec(tree, changes)
    with transaction(engine) as connection:
        return create_transfer(
            connection, source, spec, task=Task(28, 1, 10), data_digest="large", slots=2, now=9.0, **options
        )


def violations(engine):
    return [violation.invariant for violation in (*check_replay(engine), *check_sources(engine))]


def read(engine, query):
    with read_transaction(engine) as connection:
        return connection.execute(query).all()


def births_of(engine, search_id):
    return read(engine, select(candidate).where(candidate.c.search_id == search_id).order_by(candidate.c.birth))


@ON_SQLITE
def test_search_starts_with_best_and_random_networks(engine, finished):
    finished()
    rows = births_of(engine, transfer(engine, changes={"evolution.lag": 6}))
    assert [row.origin for row in rows] == ["basic", "survivor", "survivor", "survivor", "survivor", "random"]
    with read_transaction(engine) as connection:
        best = list_best(connection, get_search(connection, "small").id, top=5)
    assert [(row.parent_id, row.code) for row in rows[:5]] == [(ranked.id, ranked.code) for ranked in best]


@ON_SQLITE
def test_model_explains_births_by_its_sources(engine, finished, run):
    finished("small"), finished("other", seed=8)
    search_id = run(transfer(engine, changes={"transfer.sources": ["other"]}))
    rows = read(
        engine,
        select(prediction.c.candidate_id, prediction.c.scores, prediction.c.slopes)
        .join(candidate, candidate.c.id == prediction.c.candidate_id)
        .where(candidate.c.search_id == search_id)
        .order_by(candidate.c.birth),
    )
    assert (rows[0].scores, rows[0].slopes) == (1, [0.25, 0.25])
    with read_transaction(engine) as connection:
        first = get_predicted_fitness(connection, rows[0].candidate_id)
        assert "1 score and of the sources small with slope 0.25, other with slope 0.25 expected" in first.reason
        lineage = get_lineage(connection, rows[0].candidate_id)
        assert (lineage[0].reason, lineage[-1].search) == (first.reason, "small")
        assert any("scores of small, other" in found.words for found in list_events(connection, search_id))
        shown = list_predictions(connection, search_id, Page(where=("slopes!=",)))
    assert [row.slopes for row in shown] == [tuple(row.slopes) for row in rows]
    assert sum(rows[-1].slopes) > 0  # the sources agree with the search
    assert violations(engine) == []


@ON_SQLITE
def test_source_that_disagrees_loses_its_influence(engine, finished, run):
    finished(score=lambda code: -depth_of(code))
    search_id = run(transfer(engine, changes={"budget.candidates": 20}))
    last = read(
        engine,
        select(prediction.c.slopes)
        .join(candidate, candidate.c.id == prediction.c.candidate_id)
        .where(candidate.c.search_id == search_id)
        .order_by(candidate.c.birth.desc()),
    )[0]
    assert last.slopes == [0]


@ON_SQLITE
def test_prepared_births_are_those_of_the_transaction(engine, finished, run, lease_factory, score_factory):
    finished()
    search_id = run(transfer(engine), births=1)
    score_factory(lease_factory(search_id), 0.5)
    with transaction(engine) as connection:
        settle_births(connection, search_id, 3.0)
    prepared = prepare_births(engine, search_id)
    assert prepared[0].inputs.sources
    with transaction(engine) as connection:
        advance_search(connection, lock_search(connection, search_id), 3.0)
    assert births_of(engine, search_id)[5].code == str(prepared[0].birth.proposal.architecture)


@ON_SQLITE
def test_history_ignores_later_births_of_the_source(engine, finished, run):
    small = finished()
    first = run(transfer(engine))
    with transaction(engine) as connection:
        connection.execute(
            update(search).where(search.c.id == small).values(budget_candidates=16, finished_at=None, wish="run")
        )
        advance_search(connection, lock_search(connection, small), 4.0)
    second = transfer(engine, changes={"name": "again"}, force=True)
    run(small, lambda code: 9 + depth_of(code))
    run(second)
    with read_transaction(engine) as connection:
        assert get_fingerprint(connection, first).sha256 == get_fingerprint(connection, second).sha256
    assert violations(engine) == []


@ON_SQLITE
def test_models_are_fitted_before_the_transaction(engine, finished):
    small = finished()
    spec, options = parse_spec(TARGET), {"task": Task(28, 1, 10), "data_digest": "large", "slots": 2, "now": 9.0}
    written, changes = [], [update(candidate).where(candidate.c.search_id == small).values(fitness=candidate.c.birth)]

    def create(connection, fitted):
        written.append(fitted[0].source)
        marked = fitted[0]._replace(source=written[-1]._replace(model=written[-1].model._replace(noise=0.125)))
        return create_transfer(connection, "small", spec, fitted=(marked,), **options)

    def change_score(connection):
        """Change the scores after they were read, and before the transaction."""
        while changes:
            change = changes.pop()
            with transaction(engine) as other:
                other.execute(change)

    event.listen(engine, "rollback", change_score)
    search_id = write_with_sources(engine, "small", spec, options["task"], create)
    assert [[row.fitness == row.birth for row in source.rows] for source in written] == [[False] * 12, [True] * 12]
    with read_transaction(engine) as connection:
        (stored,) = list_stored_sources(connection, search_id)
        assert (stored.noise, stored.births, read_sources(connection, search_id)[0].rows) == (
            0.125,
            12,
            written[1].rows,
        )


@ON_SQLITE
def test_sources_that_cannot_be_used_are_reported_by_the_transaction(engine, search_factory):
    search_factory("small", **SOURCE)
    spec, options = parse_spec(TARGET), {"task": Task(28, 1, 10), "data_digest": "large", "slots": 2, "now": 9.0}
    with pytest.raises(ConflictError, match="'small' is not finished"):
        write_with_sources(
            engine,
            "small",
            spec,
            options["task"],
            lambda connection, fitted: create_transfer(connection, "small", spec, fitted=fitted, **options),
        )


@ON_SQLITE
def test_each_search_keeps_its_model_of_a_source(engine, finished):
    finished()
    first, second = transfer(engine), transfer(engine, changes={"name": "again"})
    with transaction(engine) as connection:
        connection.execute(update(transfer_source).where(transfer_source.c.search_id == second).values(noise=0.25))
        models = [read_sources(connection, search_id)[0].model for search_id in (first, second)]
        noises = [list_stored_sources(connection, search_id)[0].noise for search_id in (first, second)]
    assert [model.noise for model in models] == noises
    assert noises[0] != noises[1]


@ON_SQLITE
def test_compute_of_each_source_counts_once(engine, finished, run):
    finished()
    run(transfer(engine))
    transfer(engine, "large", changes={"name": "third", "transfer.sources": ["small"]}, force=True)
    with read_transaction(engine) as connection:
        sources = [get_search(connection, name).device_seconds for name in ("small", "large")]
        (curve,) = list_compute_curves(connection, ["third"])
    assert curve.seconds_before == sum(sources)


@ON_SQLITE
def test_check_finds_a_changed_score_of_a_source(engine, finished, run):
    small = finished()
    run(transfer(engine))
    with transaction(engine) as connection:
        connection.execute(update(transfer_source).where(transfer_source.c.source_id == small).values(digest="0" * 64))
    assert violations(engine) == ["the sources of each transferred model have the scores to which the model was fitted"]


def test_sources_cannot_be_deleted_before_their_target(engine, finished):
    finished("small"), finished("other", seed=8)
    transfer(engine, changes={"transfer.sources": ["other"]})
    for name in ("small", "other"):
        match = f"'{name}' cannot be deleted: it is the source of large"
        with pytest.raises(ConflictError, match=match), transaction(engine) as connection:
            delete_search(connection, name, 9.0)
    with transaction(engine) as connection:
        delete_search(connection, "large", 9.0)
        delete_search(connection, "other", 9.0)
        assert connection.execute(select(func.count()).select_from(transfer_source)).scalar() == 0


@ON_SQLITE
def test_export_and_import_keep_the_sources(engine, finished, run, tmp_path):
    finished()
    search_id = run(transfer(engine))
    export_record(engine, tmp_path / "exported", FileFormat.JSONL)
    url = f"sqlite:///{tmp_path / 'imported.db'}"
    create_empty_record(url).dispose()
    target = open_record(url)
    import_record(target, tmp_path / "exported")
    with read_transaction(engine) as before, read_transaction(target) as after:
        assert get_fingerprint(before, search_id) == get_fingerprint(after, search_id)
    assert violations(target) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evolution.births": "mutation"}, "`transfer.start: model` needs `evolution.births: guided`"),
        ({"transfer.sources": ["a", "b", "a"]}, "transfer.sources: 'a' is named twice"),
        ({"transfer.sources": list("abcdefgh")}, "transfer.sources: "),
        ({"transfer.start": "survivors", "transfer.sources": ["a"]}, "`sources` needs `start: model`"),
        ({"transfer.stretch_to": 1000}, "`start: model` keeps architectures unchanged"),
        ({"transfer.basic": "sep_k3_d1_w1.0"}, "`start: model` needs a source search"),
    ],
)
def test_spec_of_a_model_is_checked(changes, message):
    with pytest.raises(InvalidSpecError) as raised:
        parse_spec(TARGET, changes)
    assert len(str(raised.value).splitlines()) == 1
    assert message in str(raised.value)


@ON_SQLITE
def test_sources_that_do_not_fit_are_refused(engine, finished, search_factory, run):
    finished("small"), finished("loss", objective__metric="val_loss", objective__direction="minimize")
    run(search_factory("open", **SOURCE), births=3)
    search_factory("cells", space="nasbench201-tiny", **SOURCE)
    two = ({"metric": "val_accuracy"}, {"metric": "params"})
    search_factory("two", objective__metrics=two, **{**SOURCE, "evolution__population": 8})
    with transaction(engine) as connection:
        create_reevaluation(connection, "small", top=1, seeds=1, now=9.0)
        measured = get_search(connection, "small.reevaluation").id
    run(measured)
    for source, changes, error, message in (
        ("small", {"transfer.sources": ["small"]}, ConflictError, "is already the source of this transfer"),
        ("small", {"transfer.sources": ["nothing"]}, NotFoundError, "no search named 'nothing'"),
        ("small", {"transfer.sources": ["open"]}, ConflictError, "has 3 scored candidates, but a model needs at"),
        ("open", {}, ConflictError, "search 'open' is not finished"),
        (
            "small",
            {"transfer.sources": ["loss"]},
            ConflictError,
            "has the objective minimize val_loss, but this spec has",
        ),
        (
            "small",
            {"transfer.sources": ["cells"]},
            ConflictError,
            "blocks is 6 in search 'cells' and 7 in space eatnas-small",
        ),
        ("small", {"transfer.sources": ["two"]}, ConflictError, "'two' has several objectives, but a model predicts"),
        ("small.reevaluation", {}, ConflictError, "measures candidates of another search"),
    ):
        with pytest.raises(error, match=message) as raised:
            transfer(engine, source, changes=changes)
        assert "\n" not in str(raised.value)
    assert [row.name for row in read(engine, select(search.c.name).where(search.c.name == "large"))] == []


@ON_SQLITE
def test_search_without_a_source_is_refused(engine, search_factory):
    with pytest.raises(ConflictError, match="model` needs the scores of another search"):
        search_factory("alone", transfer__start="model", evolution__births="guided")


def test_difference_of_primitives_names_both_values():
    before, after = {"op": ("sep", "mb3"), "kernel": (3, 5)}, {"op": ("sep", "mb3"), "kernel": (3, 7)}
    assert describe_difference(before, before) is None
    assert (
        describe_difference(before, after)
        == "kernel is one of [3, 5] in the source, but one of [3, 7] in the new search"
    )
