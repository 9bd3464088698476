"""If the space of a package hangs in a running daemon, only the search with this space waits."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from eatnas_daemon.workers.timeouts import Timeouts
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.evolution import GUIDED_MIN_SCORES
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.integrity.check import list_violations
from eatnas_db.plugins import SOURCE_DIGESTS
from eatnas_db.queries.holds import list_holds
from eatnas_db.queries.searches import list_search_summaries
from eatnas_db.searches.create import create_search
from eatnas_db.time_limits import VARIABLE
from support.plugin_packages import install_package
from support.searches import SPEC

SOURCE = """
import time
from pathlib import Path

from eatnas_db.domain.macro import Macro


class Stuck(Macro):
    def measure(self, architecture, task):
        while Path(__file__).with_name("hangs").exists():
            time.sleep(10**6)  # a wait in C
        return super().measure(architecture, task)


SPACE = Stuck("stuck", 8, 1, (1, 2), (16, 24), 64, 0.5)
"""
CANDIDATES = 24
QUICK = Timeouts(tick=0.02, database=0.05, restart=0.0, max_restart=0.0)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a package with the space `stuck` and returns the file that makes it hang."""
    packages: list[str] = []

    def install(package: str) -> Path:
        packages.append(package)
        install_package(tmp_path / "site", package, SOURCE, entries=f"[eatnas_db.spaces]\nstuck = {package}:SPACE\n")
        return tmp_path / "site" / package / "hangs"

    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv(VARIABLE, "0.3")
    yield install
    SOURCE_DIGESTS.clear()
    for package in packages:
        sys.modules.pop(package, None)


@pytest.mark.slow
@pytest.mark.parametrize("births", ["mutation", "guided"])  # guided births are decided in a thread
def test_daemon_sets_a_search_with_a_hanging_space_aside(tmp_path, home, supervise, install, births):
    switch = install(f"stuck_{births}")  # use a new name, because this process caches the spaces of packages
    settings = home(tmp_path / "home", budget__candidates=CANDIDATES)
    engine = open_record(settings.database_url)
    with transaction(engine) as connection:
        changes = {"name": "stuck", "space": "stuck", "evolution.births": births, "budget.candidates": CANDIDATES}
        spec = parse_spec(SPEC, changes, plugin_spaces=("stuck",))
        create_search(connection, spec, task=Task(8, 1, 10), data_digest="arithmetic", slots=2, now=0.0)
    reasons: list[str] = []

    def observe(supervisor):
        with read_transaction(engine) as connection:
            settled = {row.name: row.settled for row in list_search_summaries(connection)}
            holds = list_holds(connection)
        if settled["stuck"] >= GUIDED_MIN_SCORES and not reasons:
            switch.touch()
        if settled["s"] == CANDIDATES and holds and switch.exists():
            reasons.extend(hold.reason for hold in holds)
            switch.unlink()
        if set(settled.values()) == {CANDIDATES}:
            supervisor.stop()

    supervise(settings, only=None, on_tick=observe, timeouts=QUICK, wall=lambda: time.time() * 60)
    (reason,) = reasons
    assert reason.startswith("space stuck cannot count ")
    assert reason.endswith("(TimeoutError: it did not return within 0.3 s); fix the package that defines the space")
    assert list(list_violations(engine, settings.artifacts)) == []
    engine.dispose()
