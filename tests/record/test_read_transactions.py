"""Read transactions."""

import gc

import pytest
from sqlalchemy import Engine

from eatnas_db.database.transactions import read_transaction


def test_garbage_collection_pauses_during_a_read_transaction(engine: Engine) -> None:
    def read() -> None:
        with read_transaction(engine):
            with read_transaction(engine):
                assert not gc.isenabled()
            assert not gc.isenabled()
            raise ZeroDivisionError

    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        read()
    assert gc.isenabled()
