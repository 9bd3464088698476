"""A search that learns from another search has the same history for any number of slots."""

import pytest
from sqlalchemy import func, select

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.integrity.check import list_violations
from eatnas_db.schema.candidates import prediction
from eatnas_db.searches.transfer import create_transfer
from support.searches import fingerprint_of

TARGET = {
    "name": "target",
    "space": "eatnas-tiny",
    "data": {"name": "digits"},
    "evolution": {"births": "guided", "population": 6, "tournament": 2, "lag": 6},
    "transfer": {"start": "model"},
    "budget": {"candidates": 20},
    "reevaluation": {"top": 0},
}


@pytest.mark.slow
def test_model_transfer_ignores_slots_and_crashes(tmp_path, home, supervise, fast):
    prints = set()
    for slots, program in ((1, fast), (4, (*fast, "--crash-on", "30"))):
        settings = home(tmp_path / str(slots), evolution__population=6, budget__candidates=20)
        supervise(settings, 2, fast)
        engine = open_record(settings.database_url)
        with transaction(engine) as connection:
            create_transfer(
                connection, "s", parse_spec(TARGET), task=Task(8, 1, 10), data_digest="digits", slots=slots, now=1.0
            )
        supervise(settings, slots, program, only="target")
        prints.add(fingerprint_of(engine, "target"))
        assert list(list_violations(engine, settings.artifacts)) == []
        with transaction(engine) as connection:
            slopes = select(func.count()).select_from(prediction).where(prediction.c.slopes.is_not(None))
            assert connection.execute(slopes).scalar() > 8
    assert len(prints) == 1
