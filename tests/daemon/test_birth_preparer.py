"""A thread decides births for a supervisor."""

import selectors
from concurrent.futures import Executor, Future
from types import SimpleNamespace

import pytest

from eatnas_daemon.supervision.birth_preparer import BirthPreparer
from eatnas_db.searches.prepared_births import PreparedBirth


class Queue(Executor):
    """Runs submitted calls only when the test asks for it."""

    def __init__(self):
        self.waiting = []

    def submit(self, function, /, *arguments):
        future = Future()
        self.waiting.append((future, function, arguments))
        return future

    def run(self):
        for future, function, arguments in self.waiting:
            try:
                future.set_result(function(*arguments))
            except Exception as error:
                future.set_exception(error)
        self.waiting.clear()

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.waiting.clear()


@pytest.fixture
def queue():
    return Queue()


@pytest.fixture
def make_preparer(queue):
    """Return a function that creates a preparer with a given function `prepare`."""
    made = []

    def make(prepare):
        selector = selectors.DefaultSelector()
        made.append((BirthPreparer(None, selector, queue, prepare), selector))
        return made[-1][0]

    yield make
    for preparer, selector in made:
        preparer.close()
        selector.close()


def test_wanted_births_are_decided_after_the_transaction(queue, make_preparer):
    birth = PreparedBirth(SimpleNamespace(number=8), None)
    preparer = make_preparer(lambda engine, search_id: (birth,))
    assert preparer.take(1, 8) is None
    assert queue.waiting == []
    preparer.start()
    assert (preparer.take(1, 8), preparer.poll()) == (None, False)
    preparer.start()
    queue.run()
    assert (preparer.poll(), preparer.poll()) == (True, False)
    assert preparer.take(1, 8) is birth
    # A second call returns the same birth, because the transaction may be rolled back and then requests the birth
    # again.
    assert preparer.take(1, 8) is birth


def test_births_are_decided_again_for_a_changed_record(queue, make_preparer):
    births = iter(PreparedBirth(SimpleNamespace(number=8), name) for name in ("old", "new"))
    preparer = make_preparer(lambda engine, search_id: (next(births),))
    preparer.take(1, 8)
    preparer.start()
    queue.run()
    assert preparer.take(1, 8).birth == "old"
    preparer.discard(1)
    preparer.start()
    queue.run()
    assert preparer.take(1, 8).birth == "new"


def test_failed_decision_is_raised_once_and_tried_again(queue, make_preparer):
    def fail(engine, search_id):
        raise ValueError("damaged")

    preparer = make_preparer(fail)
    preparer.take(1, 8)
    preparer.start()
    queue.run()
    with pytest.raises(ValueError, match="damaged"):
        preparer.take(1, 8)
    assert preparer.take(1, 8) is None
    preparer.start()
    assert len(queue.waiting) == 1
