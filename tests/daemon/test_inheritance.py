"""Real trainings whose candidates inherit the weights of their parents."""

import shutil

import pytest
from sqlalchemy import select

from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.trainings import attempt
from eatnas_db.searches.transfer import create_transfer
from eatnas_db.settings import load_settings
from support.searches import fetch_rows
from support.shared_folders import make_once
from support.slots import progress_of

REAL = ("-m", "eatnas_training.worker")
INHERITING = {
    "data": {"name": "digits", "train_images": 96, "validation_images": 64},
    "training": {"epochs": 2, "batch_size": 32, "augment": "none"},
    "inheritance": {"weights": "inherited", "epochs": 1},
    "evolution": {"population": 4, "tournament": 2, "lag": 2},
    "objective": {"max_mult_adds": 1_500_000},
    "budget": {"candidates": 12},
}


def candidates(settings):
    return fetch_rows(settings, select(candidate).order_by(candidate.c.birth))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, home, supervise):
    """Return the settings of a home whose search one worker has finished, and the fingerprint of the search."""

    def make(folder):
        settings = home(folder / "home", **INHERITING)
        (folder / "fingerprint").write_text(supervise(settings, 1, REAL))

    folder = make_once(tmp_path_factory, "inheritance", make)
    return load_settings({}, str(folder / "home")), (folder / "fingerprint").read_text()


@pytest.mark.slow
def test_children_inherit_the_same_weights_on_any_slots(tmp_path, home, supervise, undisturbed):
    one, fingerprint = undisturbed
    two = home(tmp_path / "two", **INHERITING)
    assert supervise(two, 2, REAL) == fingerprint
    for first, second in zip(candidates(one), candidates(two), strict=True):
        assert (first.share_inherited, first.logit_distance) == (second.share_inherited, second.logit_distance)
    by_id = {row.id: row for row in candidates(one)}
    for row in by_id.values():
        if row.parent_id is None:
            assert (row.share_inherited, row.lineage_epochs) == (None, 2)
        else:
            assert 0 < row.share_inherited <= 1
            assert row.lineage_epochs == by_id[row.parent_id].lineage_epochs + 1


@pytest.mark.slow
def test_damaged_parent_is_retrained_before_its_child(tmp_path, home, supervise, undisturbed):
    storm = home(tmp_path / "storm", **INHERITING)
    damaged = set()

    def damage(supervisor):
        # While candidate 8 trains, damage the checkpoints of all candidates up to it.
        for slot in supervisor.slots:
            if progress_of(slot) and slot.training.assignment.leased.birth == 8 and not damaged:
                for file in storm.artifacts.glob("checkpoints/*/c[1-8]-*"):
                    file.write_bytes(file.read_bytes()[:-5])
                    damaged.add(file.name)

    assert supervise(storm, 1, REAL, on_tick=damage, timeouts=Timeouts(tick=0.02)) == undisturbed[1]
    assert damaged
    missing = fetch_rows(storm, select(attempt.c.candidate_id).where(attempt.c.failure == "parent_missing"))
    restored = fetch_rows(storm, select(event.c.candidate_id).where(event.c.kind == "ancestor_restored"))
    assert missing
    assert len(restored) > len(missing)
    assert {row.state for row in candidates(storm)} == {"scored"}


@pytest.mark.slow
def test_transfer_with_weights_starts_from_the_best_candidate(tmp_path, supervise, undisturbed):
    settings = load_settings({}, str(shutil.copytree(undisturbed[0].home, tmp_path / "small")))
    engine = open_record(settings.database_url)
    tree = {
        "name": "large",
        "space": "eatnas-tiny",
        "transfer": {"weights": "inherited", "blocks": 1},
        **INHERITING,
        "budget": {"candidates": 5},
        "data": {**INHERITING["data"], "resolution": 12},
        "objective": {"max_mult_adds": 5_000_000},
        "reevaluation": {"top": 0},
    }
    with transaction(engine) as connection:
        spec = parse_spec(tree)
        large = create_transfer(connection, "s", spec, task=Task(12, 1, 10), data_digest="d", slots=2, now=1.0)
    supervise(settings, 1, REAL, only="large")
    born = [row for row in candidates(settings) if row.search_id == large]
    assert {row.state for row in born} == {"scored"}
    assert all(row.share_inherited > 0 for row in born)
    basic = next(row for row in candidates(settings) if row.id == born[0].parent_id)
    assert born[0].lineage_epochs == basic.lineage_epochs + 1


@pytest.mark.slow
def test_weights_of_a_parent_that_stopped_are_inherited(tmp_path, home, supervise):
    fidelity = {"rungs": [1], "keep": 0.5}
    changes = {"inheritance": {}, "budget": {"candidates": 4}, "evolution__fidelity": fidelity}
    settings = home(tmp_path / "small", **{**INHERITING, **changes})
    supervise(settings, 1, REAL)
    stopped = next(row for row in candidates(settings) if row.rung == 0)
    tree = {
        "name": "large",
        "space": "eatnas-tiny",
        **INHERITING,
        "transfer": {"weights": "inherited", "blocks": 1},
        "evolution": {"population": 2, "tournament": 2, "lag": 1},
        "budget": {"candidates": 2},
        "reevaluation": {"top": 0},
    }
    options = {"task": Task(8, 1, 10), "data_digest": "d", "slots": 2, "now": 1.0, "candidate_id": stopped.id}
    with transaction(open_record(settings.database_url)) as connection:
        large = create_transfer(connection, "s", parse_spec(tree), **options)
    supervise(settings, 1, REAL, only="large")
    born = [row for row in candidates(settings) if row.search_id == large]
    assert [(row.parent_id, row.lineage_epochs) for row in born] == [(stopped.id, 2), (stopped.id, 2)]
    assert fetch_rows(settings, select(event.c.id).where(event.c.kind == "ancestor_restored")) == []
