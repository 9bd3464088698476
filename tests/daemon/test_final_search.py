"""A training of a final model that is killed and resumed gives the same scores."""

import os
import shutil
import signal

import pytest
from sqlalchemy import select

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.ranking import get_best
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.trainings import attempt, epoch, score
from eatnas_db.searches.retrain import create_final_training
from eatnas_db.settings import load_settings
from support.slots import progress_of, running_pid

SMALL = {
    "data": {"name": "digits", "train_images": 96, "validation_images": 64},
    "training": {"epochs": 1, "batch_size": 32, "augment": "none"},
    "evolution": {"population": 2, "tournament": 2, "lag": 2},
    "objective": {"max_mult_adds": 1_500_000, "target_mult_adds": 1_000_000},
    "budget": {"candidates": 3},
    "reevaluation": {"top": 1, "seeds": 1},
}
REAL = ("-m", "eatnas_training.worker")


def kill_the_worker(supervisor):
    """Kill the worker of the first final model once, after its second epoch."""
    for slot in supervisor.slots:
        progress, pid = progress_of(slot), running_pid(slot)
        if progress is None or pid is None or progress.epoch < 1:
            continue
        leased = slot.training.assignment.leased
        if slot.training.assignment.message.final_model and leased.token.attempt == leased.replica == 1:
            os.kill(pid, signal.SIGKILL)


def train_final_models(settings, supervise, slots, program, on_tick=lambda _: None):
    """Train the winner of a finished search with two seeds. Return the fingerprint and the outcomes of the attempts."""
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        name = create_final_training(connection, "s", seeds=2, now=5.0)
    supervise(settings, slots, program, on_tick=on_tick, only=name)
    with read_transaction(engine) as connection:
        of = candidate.c.search_id == get_search(connection, name).id
        scores = connection.execute(
            select(candidate.c.fitness, score.c.value, score.c.seed)
            .join(score, score.c.candidate_id == candidate.c.id)
            .where(of, score.c.metric == "test_accuracy")
            .order_by(candidate.c.birth)
        ).all()
        outcomes = connection.execute(select(attempt.c.outcome).join(candidate).where(of)).scalars().all()
        validated = select(epoch.c.val_accuracy).join(candidate).where(of)
        assert set(connection.execute(validated).scalars()) == {None}
        winner = get_best(connection, get_search(connection, "s").id)
        fingerprint = get_fingerprint(connection, get_search(connection, name).id)
    assert winner.reevaluation is None or winner.reevaluation not in [row.value for row in scores]
    assert len({row.seed for row in scores}) == len(scores) == 2
    assert all(row.fitness == row.value for row in scores)
    assert list(list_violations(engine, settings.artifacts, whole_files=True)) == []
    return fingerprint, sorted(outcomes)


def searched_twice(folder, home, supervise, program, **spec):
    """Return the settings of two equal homes with a finished search."""
    settings = home(folder / "calm", **spec)
    supervise(settings, 1, program)
    shutil.copytree(settings.home, folder / "storm")
    return settings, load_settings({}, str(folder / "storm"))


@pytest.mark.slow
def test_killed_final_training_has_the_same_results(tmp_path, home, supervise, fast):
    calm, storm = searched_twice(tmp_path, home, supervise, fast)
    calm, outcomes = train_final_models(calm, supervise, 1, fast)
    assert outcomes == ["scored", "scored"]
    # Candidates 1 to 24 belong to the search itself, so 25 is the first final model.
    stormy = train_final_models(storm, supervise, 2, (*fast, "--crash-on", "25"))
    assert stormy == (calm, ["lost", "scored", "scored"])


@pytest.mark.slow
def test_killed_real_final_training_has_the_same_scores(tmp_path, home, supervise, fast):
    calm, storm = searched_twice(tmp_path, home, supervise, fast, **SMALL)
    calm, outcomes = train_final_models(calm, supervise, 1, REAL)
    assert outcomes == ["scored", "scored"]
    storm, outcomes = train_final_models(storm, supervise, 1, REAL, on_tick=kill_the_worker)
    assert outcomes == ["lost", "scored", "scored"]
    assert storm == calm
