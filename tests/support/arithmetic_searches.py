"""Searches with scores from a formula, for tests that read a finished record."""

from eatnas_db import provenance, transitions
from eatnas_db.searches.advance import advance_search
from eatnas_db.searches.locking import lock_search

SIZES = {"evolution.population": 4, "evolution.tournament": 2, "evolution.lag": 3, "budget.candidates": 10}
UNDER = provenance.Provenance("p", {}, "data", {}, "cpu", "none")


def tree(name, space="eatnas-tiny"):
    return {"name": name, "space": space, "data": {"name": "digits"}, "reevaluation": {"top": 0}}


def train(connection, search_id, metric="val_accuracy"):
    """Train a search to its end. The score of a candidate is its id divided by 100."""
    while leased := transitions.lease_next(connection, search_id, host_id=1, worker_id=1, now=1.0):
        fitness = leased.token.candidate / 100
        transitions.record_score(
            connection,
            leased.token,
            fitness=fitness,
            metrics={metric: fitness},
            seed=1,
            provenance=UNDER,
            device_seconds=1.0,
            now=2.0,
        )
        advance_search(connection, lock_search(connection, search_id), 3.0)
