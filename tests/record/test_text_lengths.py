"""Every string fits its column or is refused before it is written, on both databases."""

import threading

import pytest
from sqlalchemy import String, Text, func, insert, select

from eatnas_db import hosts
from eatnas_db.database.dialects import reset_id_sequence
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.errors import ConflictError, RecordError, UnstorableTextError
from eatnas_db.provenance import Provenance, store_provenance
from eatnas_db.schema.hosts import device, host
from eatnas_db.schema.metadata import metadata
from eatnas_db.schema.searches import search
from eatnas_db.schema.trainings import provenance
from eatnas_db.settings import MAX_HOST_NAME, Settings, load_settings

FIXED = {
    "digests": {"digest", "data_digest", "uuid", "owner"},
    "words of this program": {
        *("op", "origin", "state", "primitive", "before", "after", "kind", "cause", "wish", "outcome", "failure"),
        *("metric", "policy"),
    },
    "checked or cut": {"name", "device", "device_name", "cpu_capability"},
}


@pytest.mark.parametrize("length", [60, 64, 200, MAX_HOST_NAME])
def test_long_host_name_and_its_processor_are_stored(engine, length):
    name = "n" * length
    with transaction(engine) as connection:
        reset_id_sequence(connection, host)
        reset_id_sequence(connection, device)
        host_id = hosts.register_host(connection, name, 0.0)
        hosts.register_device(connection, host_id, hosts.cpu_uuid(name), "cpu", "CPU")
    with read_transaction(engine) as connection:
        assert connection.execute(select(device.c.uuid).where(device.c.host_id == host_id)).scalar() == f"cpu:{name}"


@pytest.mark.parametrize(
    ("name", "words"), [("n" * 256, "has 256 characters, and at most 255"), ("a\nb", "contains unprintable characters")]
)
def test_unusable_host_name_is_refused_at_the_start(name, words):
    with pytest.raises(RecordError, match=f"{words}.*EATNAS_HOST"):
        load_settings({"EATNAS_HOST": name})


def test_each_host_name_has_a_lock_file_of_its_own(tmp_path):
    names = ["node/1", "node_1", "node:1", "n" * 255, "n" * 254, "n" * 254 + "m", "node-1", "\u00e9", "e"]
    files = [Settings(tmp_path, "postgresql://h/d", name).lock_file for name in names]
    assert len(set(files)) == len(names)
    for file in files:
        file.touch()
    assert Settings(tmp_path, "postgresql://h/d", "node-1").lock_file.name == "daemon-node-1.lock"


def test_long_names_of_devices_are_cut(engine):
    with transaction(engine) as connection:
        reset_id_sequence(connection, device)
        hosts.register_device(connection, 1, "GPU-1", "cuda", "N" * 400)
        hosts.record_device_reports(connection, 1, [hosts.DeviceReport("GPU-2", "cuda", "M" * 400)], 0.0)
        store_provenance(connection, Provenance("p", {}, "data", {}, "D" * 400, "C" * 400))
    with read_transaction(engine) as connection:
        names = connection.execute(select(device.c.name).where(device.c.kind == "cuda").order_by(device.c.uuid))
        assert names.scalars().all() == ["N" * 255, "M" * 255]
        stored = connection.execute(select(provenance.c.device, provenance.c.cpu_capability)).one()
        assert tuple(stored) == ("D" * 255, "C" * 32)


def test_every_column_of_limited_length_has_a_rule():
    limited = {
        column.name
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, String) and not isinstance(column.type, Text) and column.type.length
    }
    assert limited <= set().union(*FIXED.values())


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_text_that_is_too_long_is_reported_in_one_line(engine):
    with (
        pytest.raises(UnstorableTextError, match="a string is too long for database"),
        transaction(engine) as connection,
    ):
        connection.execute(insert(host).values(name="n" * 256, seen_at=0.0))


def test_two_creations_of_one_name_give_one_search(engine, search_factory):
    both, outcomes = threading.Barrier(2), []

    def create():
        both.wait()
        try:
            outcomes.append(search_factory("same"))
        except ConflictError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (refused,) = (outcome for outcome in outcomes if isinstance(outcome, str))
    assert refused == "a search named 'same' already exists; choose another name"
    with read_transaction(engine) as connection:
        assert connection.execute(select(func.count()).select_from(search)).scalar() == 1


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_name_taken_by_an_open_transaction_is_a_conflict(engine, search_factory):
    """The other program commits between the check and the insert of this program."""
    outcomes = []

    def create():
        try:
            search_factory("same")
        except ConflictError as error:
            outcomes.append(str(error))

    with transaction(engine) as connection:
        row = {"name": "same", "kind": "evolution", "seed": 1, "priority": 0, "spec": {}, "macro": {}, "task": {}}
        row |= {
            "data_digest": "d",
            "population": 2,
            "initial_births": 2,
            "lag": 1,
            "budget_candidates": 2,
            "wish": "run",
            "created_at": 0,
        }
        connection.execute(insert(search).values(**row))
        thread = threading.Thread(target=create)
        thread.start()
        thread.join(0.5)
    thread.join()
    assert outcomes == ["a search named 'same' already exists; choose another name"]
