import shutil
import subprocess
import sys

import pytest
from sqlalchemy import insert

from eatnas_cli.app import main
from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.spec import parse_spec
from eatnas_db.queries.searches import get_search
from eatnas_db.schema.hosts import device, host, worker
from eatnas_db.searches.create import create_search
from eatnas_db.searches.retrain import create_reevaluation
from eatnas_db.searches.transfer import create_transfer
from eatnas_db.settings import load_settings
from support.arithmetic_searches import SIZES, train, tree
from support.shared_folders import make_once
from support.waiting import eventually

SPEC = """
name: tiny
space: eatnas-tiny
data: {name: digits, train_images: 64, validation_images: 64}
training: {epochs: 1, batch_size: 32}
evolution: {population: 2, tournament: 2, lag: 2}
budget: {candidates: 4}
reevaluation: {top: 0}
"""


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    """Hide GPUs, so that these tests train on the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture(scope="session")
def fresh_home(tmp_path_factory, command_server):
    def make(folder):
        done = command_server.run(["--home", str(folder / "home"), "init"], cwd=folder)
        assert done.returncode == 0, done.stderr

    return make_once(tmp_path_factory, "fresh", make) / "home"


@pytest.fixture
def record(home, fresh_home):
    """Create a home with an empty record, as `init` does."""
    shutil.copytree(fresh_home, home)


@pytest.fixture
def eatnas(tmp_path, home, command_server):
    """Return a function that runs a command to its end.

    The function returns the output or, if the command is expected to fail, the line on stderr. With `whole`, it returns
    both.
    """

    def call(*arguments, expect=0, at=home, whole=False, **options):
        done = command_server.run(["--home", str(at), *arguments], cwd=tmp_path, **options)
        assert done.returncode == expect, done.stderr
        assert "Traceback" not in done.stderr
        return done if whole else done.stderr if expect else done.stdout

    return call


@pytest.fixture
def eatnas_within(tmp_path, home, capsys, monkeypatch):
    """Return a function like `eatnas` that runs commands in this process, for tests with many commands."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, expect=0, at=home):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["--home", str(at), *arguments])
        out, err = capsys.readouterr()
        assert (left.value.code or 0) == expect, err
        return err if expect else out

    return call


@pytest.fixture(scope="session")
def new_tiny(fresh_home, tmp_path_factory, command_server):
    """Return a function that returns a home with a search `tiny`; `options` change its spec."""

    def create(name, *options):
        def make(folder):
            shutil.copytree(fresh_home, folder / "home")
            (folder / "spec.yaml").write_text(SPEC)
            command = ["--home", str(folder / "home"), "search", "create", "spec.yaml", *options]
            done = command_server.run(command, cwd=folder)
            assert done.returncode == 0, done.stderr

        return make_once(tmp_path_factory, name, make) / "home"

    return create


@pytest.fixture(scope="session")
def fresh_tiny(new_tiny):
    return new_tiny("tiny")


@pytest.fixture
def tiny(home, fresh_tiny):
    """Create a home with a search `tiny` that has not been trained yet."""
    shutil.copytree(fresh_tiny, home)


@pytest.fixture(scope="session")
def fresh_endless(new_tiny):
    return new_tiny("endless", "--set", "training.epochs=1000", "--set", "budget.candidates=100")


@pytest.fixture
def endless(home, fresh_endless):
    """Create a home with an untrained search `tiny` whose training never ends."""
    shutil.copytree(fresh_endless, home)


@pytest.fixture
def eatnas_started(tmp_path, home):
    """Return a function that starts a command in a new process group. After the test, this group is killed."""
    running = []

    def start(*arguments):
        command = [sys.executable, "-m", "eatnas_cli", "--home", str(home), *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, process_group=0
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def spec(tmp_path):
    def write(text=SPEC):
        file = tmp_path / "spec.yaml"
        file.write_text(text)
        return str(file)

    return write


@pytest.fixture
def until():
    """Return a function that waits for a condition."""
    return eventually


@pytest.fixture
def engine(request, home):
    """Return an engine for the record of `small` or `large`, or for an empty record."""
    request.getfixturevalue(next((name for name in ("large", "small") if name in request.fixturenames), "record"))
    engine = open_record(load_settings({}, str(home)).database_url)
    yield engine
    engine.dispose()


def change_copy(source, home, change):
    """Copy a home and change its record."""
    shutil.copytree(source, home)
    engine = open_record(load_settings({}, str(home)).database_url)
    with transaction(engine) as connection:
        change(connection)
    engine.dispose()


@pytest.fixture(scope="session")
def fresh_small(fresh_home, tmp_path_factory):
    def fill(connection):
        connection.execute(insert(host).values(id=1, name="h", seen_at=0))
        connection.execute(insert(device).values(id=1, host_id=1, uuid="u", kind="cpu", name="d"))
        connection.execute(insert(worker).values(id=1, device_id=1, slot=0, pid=1, started_at=0))
        spec = parse_spec(tree("small"), SIZES)
        search_id = create_search(connection, spec, task=Task(8, 1, 10), data_digest="d", slots=1, now=0.0)
        train(connection, search_id)

    return make_once(tmp_path_factory, "small", lambda folder: change_copy(fresh_home, folder / "home", fill)) / "home"


@pytest.fixture(scope="session")
def fresh_large(fresh_small, tmp_path_factory):
    def fill(connection):
        create_reevaluation(connection, "small", top=1, seeds=2, now=4.0)
        train(connection, get_search(connection, "small.reevaluation").id)
        spec = parse_spec(tree("large", "eatnas-small"), SIZES)
        found = create_transfer(connection, "small", spec, task=Task(28, 1, 10), data_digest="e", slots=1, now=9.0)
        train(connection, found)

    return make_once(tmp_path_factory, "large", lambda folder: change_copy(fresh_small, folder / "home", fill)) / "home"


@pytest.fixture
def small(request, home, fresh_small):
    """Create a home with a finished search `small`."""
    if "large" not in request.fixturenames:
        shutil.copytree(fresh_small, home)


@pytest.fixture
def large(home, fresh_large):
    """Create a home with `small`, its re-evaluation, and a finished search `large`, transferred from `small`."""
    shutil.copytree(fresh_large, home)
