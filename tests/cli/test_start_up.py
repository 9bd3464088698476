"""Quick commands load few modules before they do their work."""

import os
import subprocess
import sys
from importlib.metadata import version
from typing import Annotated

import pytest
import typer

from eatnas_cli.app import COMMANDS
from eatnas_cli.direct_conversion import convert_directly
from eatnas_cli.lazy_group import LazyGroup
from eatnas_cli.query.app import COMMANDS as QUERY_COMMANDS
from eatnas_cli.search.app import COMMANDS as SEARCH_COMMANDS
from eatnas_db.settings import load_settings
from support.recorded_search import make_record

HEAVY = {"alembic", "mlflow", "numpy", "pandas", "pydantic", "rich", "ruamel.yaml", "torch"}
QUICK = {*HEAVY, "jinja2", "sqlalchemy.dialects.postgresql", "statistics"}
OF_CHANGES = {"eatnas_db.domain.evolution", "eatnas_db.domain.space", "eatnas_db.leases", "eatnas_db.transitions"}
"""Modules that only commands which change a search need."""
TABLES = {"root": COMMANDS, "query": QUERY_COMMANDS, "search": SEARCH_COMMANDS}


def loaded_by(home, *arguments):
    """Return the modules that a command loads. Require that the command runs no full garbage collection, which would be
    slow.
    """
    program = (
        "import gc, sys\nfrom eatnas_cli.__main__ import main\n"
        "gc.collect()\ncollections = gc.get_stats()[2]['collections']\n"
        "try: main()\nexcept SystemExit as left: assert not left.code, left.code\n"
        "assert gc.get_stats()[2]['collections'] == collections and gc.get_freeze_count()\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, "--home", str(home), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        *([name] for name in COMMANDS),
        ["query", "best"],
        ["search", "list"],
        ["mlflow", "ui"],
        ["db", "copy"],
    ],
    ids=" ".join,
)
def test_short_help_option_prints_the_help(eatnas_within, arguments):
    assert eatnas_within(*arguments, "-h") == eatnas_within(*arguments, "--help")
    assert "-h, --help" in eatnas_within(*arguments, "-h")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_group_cuts_no_sentence(eatnas_within, name):
    assert "..." not in eatnas_within(name, "--help").partition("Commands:")[2]


def test_version_is_printed(eatnas_within):
    assert eatnas_within("--version") == f"eatnas-db {version('eatnas-db')}\n"


@pytest.mark.parametrize("arguments", [[], ["search"], ["query"]])
def test_help_loads_no_command(tmp_path, arguments):
    loaded = loaded_by(tmp_path, *arguments, "--help")
    assert not loaded & (
        HEAVY | {"importlib.metadata", "sqlalchemy", "eatnas_cli.query.ranking", "eatnas_cli.search.summaries"}
    )


@pytest.mark.slow
def test_long_commands_search_for_garbage_as_usual(tiny, home):
    program = (
        "import gc, sys\nusual = gc.get_threshold()\nfrom eatnas_cli.__main__ import main\n"
        "for line in sys.argv[2:]:\n"
        "    sys.argv = ['eatnas-db', '--home', sys.argv[2 if sys.argv[0] == 'eatnas-db' else 1], *line.split()]\n"
        "    try: main()\n    except SystemExit: pass\n"
        "    print(line, gc.get_threshold() == usual, file=sys.stderr)\n"
    )
    lines = ["search cancel tiny", "search watch tiny", "run tiny", "mcp"]
    command = [sys.executable, "-c", program, str(home), *lines]
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    answers = [line for line in done.stderr.splitlines() if line.endswith(("True", "False"))]
    assert answers == [f"{line} {line != 'search cancel tiny'}" for line in lines], done.stderr


@pytest.mark.parametrize("skips", [False, True])
def test_program_can_skip_the_last_search_for_garbage(skips):
    program = (
        "from eatnas_db.garbage_collection import skip_last_collection\n"
        "class Ring:\n    def __init__(self): self.next = self\n    def __del__(self): print('found')\n"
        f"if {skips}: skip_last_collection()\nRing()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ("" if skips else "found\n")


@pytest.fixture(scope="module")
def small_home(tmp_path_factory):
    """Return a home with a trained search `small`."""
    home = tmp_path_factory.mktemp("home")
    make_record(home, lambda folder: load_settings({}, str(folder)).database_url).engine.dispose()
    return home


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["candidate", "show", "1"],
        ["daemon", "status"],
        ["query", "best", "small", "--top", "3", "--where", "params<=1e9"],
        ["query", "lineage", "1", "--format", "table"],
        *(["query", name, "small"] for name in ("events", "failures", "population", "utilisation")),
        ["search", "list"],
    ],
    ids=" ".join,
)
def test_query_loads_nothing_of_commands_that_change_searches(small_home, arguments):
    assert not loaded_by(small_home, *arguments) & {*QUICK, *OF_CHANGES, "eatnas_db.plugins"}


@pytest.mark.slow
def test_module_of_each_command_imports_alone():
    """Other tests run commands in a process that has imported all modules, where a missing import goes unnoticed."""
    program = (
        "import sys\nfrom importlib import import_module\n"
        "for module in sys.argv[1:]:\n"
        "    for name in [name for name in sys.modules if name.startswith('eatnas_')]: del sys.modules[name]\n"
        "    import_module(module)\n"
    )
    modules = sorted({command.module for table in TABLES.values() for command in table.values()})
    subprocess.run([sys.executable, "-c", program, *modules], check=True)


@pytest.mark.parametrize(("table", "name"), [(table, name) for table, names in TABLES.items() for name in names])
def test_listed_help_is_first_line_of_command(table, name):
    lazy = TABLES[table][name]
    command = lazy.load(name)
    assert (command.help or "").splitlines()[0] == lazy.help
    assert not isinstance(command, LazyGroup) or command.list_commands(None) == list(TABLES[name])


@pytest.fixture
def converted():
    app = typer.Typer()

    @app.command()
    def command(
        text: str,
        number: Annotated[int, typer.Option(min=0, max=5)] = 1,
        share: float = 0.5,
        names: Annotated[list[str] | None, typer.Option()] = None,
    ) -> None:
        typer.echo(repr((text, number, share, names or [])))

    converted = typer.main.get_command(app)
    convert_directly(converted)
    return converted


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["a"], "('a', 1, 0.5, [])"),
        (["a", "--number", "5", "--share", "1e-3", "--names", "x", "--names", "y"], "('a', 5, 0.001, ['x', 'y'])"),
        (["a", "--number", "+4", "--share", ".5"], "('a', 4, 0.5, [])"),
    ],
)
def test_direct_conversion_gives_typers_values(converted, capsys, arguments, output):
    converted.main(arguments, standalone_mode=False)
    assert capsys.readouterr().out.strip() == output


@pytest.mark.parametrize("arguments", [[], ["a", "--number", "6"], ["a", "--number", "x"], ["a", "--share", "x"]])
def test_direct_conversion_refuses_the_same_arguments_as_typer(converted, arguments):
    with pytest.raises(SystemExit) as left:
        converted.main(arguments)
    assert left.value.code == 2


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("eatnas-db que", "query"),
        ("eatnas-db query linea", "lineage"),
        ("eatnas-db search final s --preset st", "strong"),
    ],
)
def test_shell_completes_commands(words, completed):
    program = "import sys; sys.argv[0] = 'eatnas-db'; from eatnas_cli.app import main; main()"
    environment = {"_EATNAS_DB_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [completed]


def test_query_works_with_closed_output(small_home):
    query = [sys.executable, "-m", "eatnas_cli", "--home", str(small_home), "query", "best", "small"]
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *query], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
