"""All details of one candidate."""

from sqlalchemy import update

from eatnas_db.database.transactions import transaction
from eatnas_db.queries.candidates import get_candidate, list_epochs
from eatnas_db.queries.ranking import get_best
from eatnas_db.schema.candidates import candidate


def test_details_contain_blocks_attempts_epochs_and_scores(record, record_connection):
    best = get_best(record_connection, record.search_id)
    details = get_candidate(record_connection, best.id)
    assert (details.search, details.code, len(details.blocks), len(details.epochs)) == ("small", best.code, 7, 1)
    assert [(score.metric, score.seed) for score in details.scores] == [("fitness", 7), ("val_accuracy", 7)]
    assert details.attempts[0].outcome == "scored"
    assert list_epochs(record_connection, best.id) == details.epochs
    assert list_epochs(record_connection, best.id, first=1) == list_epochs(record_connection, best.id, end=0) == ()


def test_details_contain_the_inherited_share(engine, small):
    inherited = {"share_inherited": 0.5, "logit_distance": 0.25, "lineage_epochs": 6}
    with transaction(engine) as connection:
        connection.execute(update(candidate).where(candidate.c.id == 2).values(inherited))
        details = get_candidate(connection, 2)
    assert {name: getattr(details, name) for name in inherited} == inherited
