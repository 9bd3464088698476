"""Elastic transfers, and re-evaluations."""

import pytest
from sqlalchemy import select, update

from eatnas_daemon.workers.assignments import create_assignment
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.architecture import Architecture
from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.transfer import select_survivors, stretch
from eatnas_db.errors import ConflictError, InvalidSpecError, NotFoundError, SpaceExhaustedError
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.events import list_events
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.inheritance import list_inheritance_chain
from eatnas_db.queries.lineage import get_lineage
from eatnas_db.queries.ranking import get_best, list_best, list_living
from eatnas_db.queries.searches import get_search, list_searches
from eatnas_db.schema.candidates import candidate, mutation
from eatnas_db.schema.searches import search
from eatnas_db.searches.advance import advance_search, settle_births
from eatnas_db.searches.locking import lock_search
from eatnas_db.searches.retrain import create_reevaluation
from eatnas_db.searches.search_space import space_of
from eatnas_db.searches.transfer import create_transfer
from eatnas_db.settings import load_settings
from support.databases import ON_SQLITE, POSTGRESQL_IS_SLOW

TARGET = {"name": "large", "space": "eatnas-small", "data": {"name": "FashionMNIST"}}


@pytest.fixture
def finished(engine, search_factory, lease_factory, score_factory):
    """Return a function that runs a small search to its end. The candidate with the highest id has the best fitness."""

    def make(name="small", **overrides):
        search_id = search_factory(name, **overrides)
        while (leased := lease_factory(search_id)) is not None:
            score_factory(leased, leased.token.candidate / 100)
            with transaction(engine) as connection:
                advance_search(connection, lock_search(connection, search_id), 3.0)
        return search_id

    return make


def transfer(engine, source="small", tree=TARGET, changes=None, **options):
    spec = parse_spec(
        tree, {"evolution.population": 5, "evolution.tournament": 2, "evolution.lag": 4, **(changes or {})}
    )
    with transaction(engine) as connection:
        return create_transfer(
            connection, source, spec, task=Task(28, 1, 10), data_digest="large", slots=2, now=9.0, **options
        )


def initial(engine, search_id):
    with transaction(engine) as connection:
        rows = connection.execute(
            select(candidate).where(candidate.c.search_id == search_id).order_by(candidate.c.birth)
        )
        return rows.all()


def test_initial_population_is_the_best_and_its_perturbations(engine, finished):
    small = finished()
    large = transfer(engine)
    with transaction(engine) as connection:
        winner = get_best(connection, small)
        changed = connection.execute(select(mutation.c.candidate_id, mutation.c.block)).all()
    rows = initial(engine, large)
    assert [row.origin for row in rows] == ["basic"] + ["perturbation"] * 4
    assert {row.parent_id for row in rows} == {winner.id}
    assert rows[0].code == winner.code
    assert len({row.architecture_id for row in rows}) == 5
    for row in rows[1:]:
        assert 1 <= len([block for candidate_id, block in changed if candidate_id == row.id]) <= 3


@ON_SQLITE
def test_perturbations_respect_their_limits(engine, finished):
    finished()
    changes = {"transfer.blocks": 1, "transfer.primitives": ["kernel"], "evolution.population": 8}
    large = transfer(engine, changes=changes)
    basic, *rest = (Architecture.parse(row.code) for row in initial(engine, large))
    for perturbation in rest:
        differing = [(a, b) for a, b in zip(basic, perturbation, strict=True) if a != b]
        assert len(differing) == 1
        ((a, b),) = differing
        assert a.kernel != b.kernel
        assert a.with_value("kernel", b.kernel) == b


@ON_SQLITE
def test_equal_specs_give_equal_transfers(engine, finished):
    finished()
    codes = [
        [row.code for row in initial(engine, transfer(engine, changes={"name": name, "seed": seed}))]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert codes[0] == codes[1] != codes[2]


def test_lineage_continues_into_the_source_search(engine, finished, lease_factory, score_factory):
    small = finished()
    large = transfer(engine)
    child = initial(engine, large)[2]
    with transaction(engine) as connection:
        lineage = get_lineage(connection, child.id)
        searches = {row.id: row.search_id for row in connection.execute(select(candidate.c.id, candidate.c.search_id))}
    assert searches[lineage[0].id] == large
    assert searches[lineage[-1].id] == small
    assert len(lineage) >= 2


@POSTGRESQL_IS_SLOW
def test_transferred_search_evolves_normally(engine, finished, lease_factory, score_factory):
    finished()
    large = transfer(engine, changes={"budget.candidates": 9})
    while (leased := lease_factory(large)) is not None:
        score_factory(leased, 0.5)
        with transaction(engine) as connection:
            advance_search(connection, lock_search(connection, large), 3.0)
    rows = initial(engine, large)
    assert [row.origin for row in rows[5:]] == ["mutation"] * 4
    assert {row.parent_id for row in rows[5:]} <= {row.id for row in rows}


@pytest.mark.slow
def test_chosen_candidate_is_transferred(engine, finished):
    small = finished()
    chosen = initial(engine, small)[1]
    assert initial(engine, transfer(engine, candidate_id=chosen.id))[0].parent_id == chosen.id
    with pytest.raises(NotFoundError, match="no candidate 4711"):
        transfer(engine, changes={"name": "other"}, candidate_id=4711)


@ON_SQLITE
def test_basic_architecture_is_stretched_towards_the_target(engine, finished):
    finished()
    plain = initial(engine, transfer(engine))[0]
    target = 2 * plain.mult_adds
    large = initial(engine, transfer(engine, changes={"name": "stretched", "transfer.stretch_to": target}))[0]
    assert abs(large.mult_adds - target) < abs(plain.mult_adds - target) / 4
    before, after = Architecture.parse(plain.code), Architecture.parse(large.code)
    for a, b in zip(before, after, strict=True):
        assert (a.op, a.kernel, a.skip) == (b.op, b.kernel, b.skip)


@ON_SQLITE
def test_stretching_stops_when_nothing_is_closer(engine, finished):
    finished()
    row = initial(engine, transfer(engine))[0]
    with transaction(engine) as connection:
        space = space_of(get_search(connection, "large"))
    basic = Architecture.parse(row.code)
    assert stretch(basic, space, row.mult_adds) == basic


SURVIVORS = {"transfer.start": "survivors"}


def list_members(engine, search_id):
    with transaction(engine) as connection:
        return list_living(connection, search_id)


def test_survivors_are_carried_over_in_ranking_order(engine, finished, tmp_path):
    living = list_members(engine, finished())
    rows = initial(engine, transfer(engine, changes=SURVIVORS))
    assert [member.fitness for member in living] == sorted((member.fitness for member in living), reverse=True)
    assert [(row.parent_id, row.code) for row in rows[:4]] == [(member.id, member.code) for member in living]
    assert [row.origin for row in rows] == ["basic", "survivor", "survivor", "survivor", "perturbation"]
    assert rows[4].parent_id == living[0].id
    smaller = {"name": "fewer", "evolution.population": 3, "evolution.lag": 3}
    fewer = initial(engine, transfer(engine, changes={**SURVIVORS, **smaller}))
    assert [row.parent_id for row in fewer[:3]] == [member.id for member in living[:3]]
    # These trainings report no epochs; all other invariants hold.
    assert [
        violation.what for violation in list_violations(engine, tmp_path) if "epochs" not in violation.invariant
    ] == []


@ON_SQLITE
def test_budget_below_the_number_of_survivors_is_refused(engine, finished):
    finished()
    with pytest.raises(ConflictError, match=r"budget.candidates is 3, but 4 survivors of search 'small' are carried"):
        transfer(engine, changes={**SURVIVORS, "budget.candidates": 3})


@ON_SQLITE
def test_survivors_over_the_limits_are_replaced_by_perturbations(engine, finished):
    living = list_members(engine, finished())
    costs = [row.mult_adds for row in initial(engine, transfer(engine, changes={**SURVIVORS, "name": "free"}))[:4]]
    limit = max(costs) - 1
    fitting = [member.id for member, cost in zip(living, costs, strict=True) if cost <= limit]
    large = transfer(engine, changes={**SURVIVORS, "objective.max_mult_adds": limit})
    rows = initial(engine, large)
    assert [row.parent_id for row in rows] == fitting + [fitting[0]] * (5 - len(fitting))
    assert [row.origin for row in rows[len(fitting) :]] == ["perturbation"] * (5 - len(fitting))
    with transaction(engine) as connection:
        (event,) = list_events(connection, large, kind="survivors_taken")
    assert event.words.startswith(f"the search starts with {len(fitting)} of the members of small, unchanged; ")
    assert f"members over the limits ({4 - len(fitting)})" in event.words
    most_expensive = living[costs.index(max(costs))].id
    changes = {**SURVIVORS, "name": "other", "objective.max_mult_adds": limit}
    with pytest.raises(SpaceExhaustedError, match="the basic architecture has"):
        transfer(engine, changes=changes, candidate_id=most_expensive)


def test_survivors_with_the_same_network_are_carried_over_once():
    space = Space(Macro("narrow", 4, 1, (1, 1), (4, 4), 8), Task(8, 1, 10))
    codes = ("mb3_k3_d1_w1.0/sep_k3_d1_w0.5", "mb3_k3_d1_w0.5/sep_k3_d1_w1.0", "mb6_k3_d1_w1.0/sep_k3_d1_w1.0")
    selection = select_survivors([Architecture.parse(code) for code in codes], space, 3)
    assert [survivor.place for survivor in selection.survivors] == [0, 2]
    assert (selection.over_limits, selection.same_network) == (0, 1)


@POSTGRESQL_IS_SLOW
def test_carried_over_population_is_reproducible(engine, finished, lease_factory, score_factory):
    finished()
    fingerprints = []
    for name in ("a", "b"):
        large = transfer(engine, changes={**SURVIVORS, "name": name, "budget.candidates": 9, "reevaluation.top": 0})
        while (leased := lease_factory(large)) is not None:
            score_factory(leased, 0.5 + leased.birth / 100)
            with transaction(engine) as connection:
                advance_search(connection, lock_search(connection, large), 3.0)
        with transaction(engine) as connection:
            fingerprints.append(get_fingerprint(connection, large))
    assert fingerprints[0] == fingerprints[1]
    assert fingerprints[0].candidates == 9


@ON_SQLITE
def test_transfer_reports_why_the_basic_architecture_was_chosen(engine, finished, lease_factory, score_factory):
    small = finished()

    def reason(name, **options):
        large = transfer(engine, changes={"name": name}, **options)
        with transaction(engine) as connection:
            return list_events(connection, large, kind="transferred")[0].words

    assert reason("a").endswith("of small, the best by fitness, not measured by a re-evaluation")
    assert reason("b", candidate_id=initial(engine, small)[0].id).endswith("of small, as requested")
    with transaction(engine) as connection:
        reevaluation = get_search(connection, create_reevaluation(connection, "small", top=2, seeds=2, now=5.0)).id
    score_factory(lease_factory(reevaluation), 0.75)
    words = "the best by the re-evaluation, 0.7500 over"
    assert reason("c", force=True).endswith(f"{words} 1 seed; 'small.reevaluation' is not finished")
    while (leased := lease_factory(reevaluation)) is not None:
        score_factory(leased, 0.75)
    with transaction(engine) as connection:
        advance_search(connection, lock_search(connection, reevaluation), 3.0)
    assert reason("d").endswith(f"{words} 2 seeds")


def test_survivors_exclude_stretching_and_a_basic_code():
    tree = {**TARGET, "transfer": {"start": "survivors"}}
    for changes, message in (
        ({"transfer.stretch_to": 10}, "cannot be combined with `stretch_to`"),
        ({"transfer.basic": "sep_k3_d1_w1.0"}, "cannot be combined with `basic`"),
    ):
        with pytest.raises(InvalidSpecError, match=message):
            parse_spec(tree, changes)


MOBILENET = "/".join(f"mb6_k3_d{depth}_w1.0_skip" for depth in (1, 2, 3, 4, 3, 3, 1))


@ON_SQLITE
def test_search_starts_from_an_imported_network(engine, search_factory):
    search_id = search_factory("own", transfer__basic=MOBILENET, transfer__blocks=2)
    first, *rest = initial(engine, search_id)
    assert (first.origin, first.code, first.parent_id) == ("imported", MOBILENET, None)
    assert {(row.origin, row.parent_id) for row in rest} == {("perturbation", first.id)}


@ON_SQLITE
def test_unsuitable_imported_network_is_refused(engine, search_factory):
    with pytest.raises(InvalidSpecError, match=r"transfer\.basic: block 1: cannot parse 'mobilenet'"):
        search_factory("own", transfer__basic="mobilenet")
    with pytest.raises(ConflictError, match=r"the number of blocks is 1 in .* and 7 in space eatnas-tiny"):
        search_factory("own", transfer__basic="mb6_k3_d1_w1.0")
    with pytest.raises(SpaceExhaustedError, match="the basic architecture has"):
        search_factory("own", transfer__basic=MOBILENET, objective__max_mult_adds=1_000_000)
    with pytest.raises(InvalidSpecError, match="weights cannot be inherited"):
        search_factory("own", transfer__basic=MOBILENET, transfer__weights="inherited")


@ON_SQLITE
@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"source": "none"}, "no search named"),
        ({"name": "small"}, {}, "choose another name"),
        ({"transfer.basic": "sep_k3_d1_w1.0"}, {}, "transfer.basic cannot be set"),
        ({"transfer.weights": "inherited", "training.arithmetic": "portable"}, {}, "trained with native arithmetic"),
        ({"objective.max_mult_adds": 40_000}, {}, "the smallest network"),
        ({"objective.max_mult_adds": 900_000}, {}, "the basic architecture has"),
        ({"transfer.primitives": ["skip"], "transfer.blocks": 1, "evolution.population": 50}, {}, "initial population"),
        (
            {"space": {"name": "two", "stem_channels": 4, "strides": [1, 2], "base": [4, 8], "head_channels": 8}},
            {},
            "and 2 in space two",
        ),
    ],
)
def test_invalid_transfer_is_refused_and_writes_nothing(engine, finished, changes, options, message):
    finished()
    with pytest.raises((ConflictError, SpaceExhaustedError, NotFoundError), match=message):
        transfer(engine, changes=changes, **options)
    with transaction(engine) as connection:
        assert [row.name for row in list_searches(connection)] == ["small"]


@ON_SQLITE
def test_unfinished_source_needs_force(engine, search_factory, lease_factory, score_factory):
    search_id = search_factory("small")
    with pytest.raises(ConflictError, match="--force"):
        transfer(engine)
    with pytest.raises(ConflictError, match="no scored candidate"):
        transfer(engine, force=True)
    score_factory(lease_factory(search_id), 0.5)
    with transaction(engine) as connection:
        settle_births(connection, search_id, 3.0)
    assert transfer(engine, force=True)


def test_reevaluation_retrains_the_best_and_decides_the_ranking(engine, finished, lease_factory, score_factory):
    small = finished()
    with transaction(engine) as connection:
        name = create_reevaluation(connection, "small", top=2, seeds=3, now=5.0)
        reevaluation = get_search(connection, name)
        first, second = list_best(connection, small, 2)
    assert (name, reevaluation.kind, reevaluation.born) == ("small.reevaluation", "reevaluation", 6)
    leases = []
    while (leased := lease_factory(reevaluation.id)) is not None:
        leases.append((leased.parent_id, leased.replica))
        score_factory(leased, 0.3 if leased.parent_id == first.id else 0.6)
        with transaction(engine) as connection:
            advance_search(connection, lock_search(connection, reevaluation.id), 3.0)
    assert leases == [(ranked.id, replica) for ranked in (first, second) for replica in (1, 2, 3)]
    with transaction(engine) as connection:
        best = list_best(connection, small, 3)
        assert [ranked.id for ranked in best[:2]] == [second.id, first.id]
        assert (best[0].reevaluation, best[0].reevaluation_spread, best[0].reevaluation_seeds) == (
            pytest.approx(0.6),
            0.0,
            3,
        )
        assert best[2].reevaluation is None
        assert get_best(connection, small).id == second.id
        assert get_search(connection, name).status == "finished"


@ON_SQLITE
def test_reevaluations_never_repeat_a_seed(engine, finished, lease_factory, score_factory):
    small = finished()
    for _ in range(2):
        with transaction(engine) as connection:
            name = create_reevaluation(connection, "small", top=1, seeds=2, now=5.0)
            reevaluation_id = get_search(connection, name).id
        while (leased := lease_factory(reevaluation_id)) is not None:
            score_factory(leased, 0.5)
    with transaction(engine) as connection:
        best = get_best(connection, small)
        replicas = connection.execute(select(candidate.c.replica).where(candidate.c.parent_id == best.id)).scalars()
        assert sorted(replica for replica in replicas if replica) == [1, 2, 3, 4]
    assert best.reevaluation_seeds == 4


def test_mean_of_reevaluations_is_over_one_recipe(engine, finished, lease_factory, score_factory):
    small = finished()
    for epochs, fitness in ((3, 0.75), (1, 0.25), (3, 0.5)):
        with transaction(engine) as connection:
            name = create_reevaluation(connection, "small", top=1, seeds=1, epochs=epochs, now=5.0)
            reevaluation_id = get_search(connection, name).id
        score_factory(lease_factory(reevaluation_id), fitness)
    with transaction(engine) as connection:
        best = get_best(connection, small)
    assert (best.reevaluation, best.reevaluation_seeds, best.reevaluation_epochs) == (0.625, 2, 3)


@ON_SQLITE
def test_generated_names_avoid_names_of_users(engine, finished, search_factory):
    search_factory("small.reevaluation")
    finished(reevaluation__top=1, reevaluation__seeds=1)
    with transaction(engine) as connection:
        assert get_search(connection, "small.reevaluation2").kind == "reevaluation"


@ON_SQLITE
def test_generated_names_of_long_names_differ(engine, search_factory, lease_factory, score_factory):
    names = [f"{'n' * 60}.{number}" for number in (1, 2)]
    for name in names:
        score_factory(lease_factory(search_factory(name)), 0.5)
    with transaction(engine) as connection:
        made = [create_reevaluation(connection, name, top=1, seeds=1, now=5.0) for name in names]
    assert len(set(made)) == 2
    assert all(len(name) <= 64 for name in made)


@ON_SQLITE
def test_finished_search_starts_its_reevaluation(engine, finished):
    finished(reevaluation__top=2, reevaluation__seeds=2, reevaluation__epochs=1)
    with transaction(engine) as connection:
        reevaluation = get_search(connection, "small.reevaluation")
        assert reevaluation.born == 4
        assert reevaluation.spec["training"]["epochs"] == 1
        assert create_reevaluation(connection, "small", top=1, seeds=1, now=5.0) == "small.reevaluation2"
        with pytest.raises(ConflictError, match="measures candidates of another search"):
            create_reevaluation(connection, "small.reevaluation", top=1, seeds=1, now=5.0)


@ON_SQLITE
def test_search_without_scores_cannot_be_rescored_or_transferred(engine, search_factory):
    search_factory("small")
    with transaction(engine) as connection, pytest.raises(ConflictError, match="no scored candidate to measure"):
        create_reevaluation(connection, "small", top=1, seeds=1, now=5.0)
    with transaction(engine) as connection:
        connection.execute(update(search).values(finished_at=1.0))
    with pytest.raises(ConflictError, match="no scored candidate"):
        transfer(engine)


@ON_SQLITE
def test_perturbations_of_an_imported_network_are_trained_from_scratch(engine, search_factory):
    inheritance = {"inheritance__weights": "inherited", "inheritance__epochs": 1}
    search_id = search_factory("own", transfer__basic=MOBILENET, training__epochs=3, **inheritance)
    perturbation = initial(engine, search_id)[1]
    with transaction(engine) as connection:
        for whole in (False, True):
            (link,) = list_inheritance_chain(connection, perturbation.id, whole=whole)
            assert (link.candidate_id, link.inherited, link.training["epochs"]) == (perturbation.id, False, 3)


@ON_SQLITE
def test_parent_is_trained_again_on_unchanged_images_only(engine, finished, lease_factory, tmp_path):
    source_id = finished()
    state = {"data_digest": "small", "files_digest": None, "content_digest": None}
    with transaction(engine) as connection:
        connection.execute(update(search).where(search.c.id == source_id).values(data_state=state))
    leased = lease_factory(transfer(engine, changes={"transfer.weights": "inherited"}))
    with transaction(engine) as connection:
        target = lock_search(connection, leased.search_id)
        message = create_assignment(connection, load_settings({}, str(tmp_path)), target, leased).message
    assert [ancestor["data_state"] for ancestor in message.ancestors] == [state]


@ON_SQLITE
@pytest.mark.parametrize(("schedule", "ended"), [("whole", (3, 1)), ("rung", (1, None))])
def test_parent_is_trained_again_to_its_last_rung(engine, search_factory, schedule, ended):
    rungs = {"rungs": [1], "keep": 0.5, "schedule": schedule}
    search_id = search_factory(training__epochs=3, evolution__fidelity=rungs)
    parent = initial(engine, search_id)[0]
    with transaction(engine) as connection:
        (link,) = list_inheritance_chain(connection, parent.id, whole=False)
        assert (link.training["epochs"], link.stop_after) == ended
        connection.execute(update(candidate).where(candidate.c.id == parent.id).values(rung=1))
        (link,) = list_inheritance_chain(connection, parent.id, whole=False)
        assert (link.training["epochs"], link.stop_after) == (3, None)
