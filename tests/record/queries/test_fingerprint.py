"""Equal results have equal fingerprints."""

import pytest
from sqlalchemy import text

from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.queries.fingerprint import get_fingerprint
from support.recorded_search import BIRTHS, make_record


def test_fingerprints_ignore_times_devices_and_names(tmp_path, record, record_connection, new_url):
    first = get_fingerprint(record_connection, record.search_id)
    assert first.candidates == BIRTHS
    fingerprints = []
    for number, other in enumerate(({"start": 5.0, "device": "gpu", "name": "b"}, {"fitness_factor": 1.0000001})):
        made = make_record(tmp_path / str(number), new_url, **other)
        with read_transaction(made.engine) as connection:
            fingerprints.append(get_fingerprint(connection, made.search_id))
        made.engine.dispose()
    assert fingerprints[0] == first
    assert fingerprints[1] != first


@pytest.mark.parametrize("new_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE eatnas_epoch SET val_loss = val_loss + 1e-15 WHERE candidate_id = 3",
        "UPDATE eatnas_score SET value = value + 1e-16 WHERE candidate_id = 24",
        "UPDATE eatnas_score SET seed = 8 WHERE candidate_id = 1",
        "UPDATE eatnas_provenance SET data_digest = 'x'",
        "UPDATE eatnas_provenance SET recipe = '{}'",
        "UPDATE eatnas_mutation SET block = block + 1",
        'UPDATE eatnas_candidate SET "left" = NULL WHERE id = 2',
        "UPDATE eatnas_candidate SET parent_id = 1 WHERE id = 20",
        "UPDATE eatnas_search SET seed = 6",
    ],
)
def test_every_result_changes_the_fingerprint(tmp_path, record, record_connection, change, new_url):
    made = make_record(tmp_path, new_url)
    with transaction(made.engine) as writer:
        assert writer.execute(text(change)).rowcount > 0
        assert get_fingerprint(writer, made.search_id) != get_fingerprint(record_connection, record.search_id)
    made.engine.dispose()
