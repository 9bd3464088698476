"""Tables on terminals of 80 and 120 columns. To replace the stored tables with new ones, delete their file."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eatnas_cli.app import main
from eatnas_cli.sentences import fold_sentence
from eatnas_cli.tables import cell_text, fold, lay_out, shorten, text_width

DRAWN = Path(__file__).parents[1] / "data"
SAME_EVERYWHERE = [
    "query best small",
    "query best large --where birth>6 --columns id,code,fitness",
    "query population large",
    "query quality small --limit 3",
    "query compare small large",
    "query primitives small --block 1",
    "query mutations large --limit 4",
    "query pareto small",
    "query utilisation large",
    "query lineage large --limit 3",
    "query descendants 10 --limit 3",
    "query events large --limit 6",
    "query sql SELECT~id,code,origin~FROM~candidates~LIMIT~2",
    "search list",
    "space show",
    "space show eatnas-tiny",
    "space sample --count 2",
]
# The rows of these commands depend on this machine, or grow with the schema.
CHANGING = [
    "candidate show 12",
    "search show large",
    "data list",
    "devices",
    "daemon status",
    "db current",
    pytest.param("doctor", marks=pytest.mark.slow),
]


class Terminal(io.StringIO):
    """A stdout that claims to be a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def typed(home, monkeypatch):
    """Return a function that runs a command at a terminal of a given width and returns its output."""

    def run(command, width):
        monkeypatch.setenv("COLUMNS", str(width))
        terminal = Terminal()
        arguments = [part.replace("~", " ") for part in command.split()]
        with contextlib.redirect_stdout(terminal), pytest.raises(SystemExit) as left:
            main(["--home", str(home), *arguments])
        assert not left.value.code
        return terminal.getvalue()

    return run


@pytest.mark.parametrize("width", [80, 120])
def test_tables_equal_the_stored_drawings(large, typed, width):
    shown = "".join(f"$ {command.replace('~', ' ')}\n{typed(command, width)}\n" for command in SAME_EVERYWHERE)
    file = DRAWN / f"tables-{width}.txt"
    if not file.exists():
        file.write_text(shown)
        pytest.fail(f"drew {file}")
    assert shown == file.read_text()


@pytest.mark.parametrize("command", [*SAME_EVERYWHERE, *CHANGING])
def test_table_fits_and_breaks_no_word(large, typed, command):
    def words(text):
        # Replace all numbers, because some of them, such as the free memory, differ between two commands.
        return {re.sub(r"\d+(\.\d+)?", "0", word) for word in text.split() if "…" not in word and "─" not in word}

    wide = words(typed(command, 4000) + typed(f"{command} --wide", 80))
    for width in (60, 80, 120):
        shown = typed(command, width)
        assert max(map(text_width, shown.splitlines())) <= width, shown
        assert words(shown) <= wide


def test_lineage_tree_fits_and_breaks_no_word(large, typed):
    whole = [word for word in typed("query lineage large", 4000).split() if word[0] not in "│├└"]
    for width in (60, 80):
        shown = typed("query lineage large", width)
        assert max(map(text_width, shown.splitlines())) <= width
        assert [word for word in shown.split() if word[0] not in "│├└"] == whole
    # The branches of all generations do not fit into 38 columns, so the command prints a table.
    assert "generation" in typed("query lineage large", 38)


def test_sentence_is_folded_around_its_command():
    lines = fold_sentence("a search; `eatnas-db run tiny` trains it", 22)
    assert lines == ["a search;", "`eatnas-db run tiny`", "trains it"]
    assert fold_sentence("`eatnas-db run tiny`", 12) == ["`eatnas-db", "run tiny`"]


def test_large_figure_has_an_exponent():
    assert [cell_text("fitness", value) for value in (0.5, -1e308)] == ["0.5000", "-1e+308"]


def test_columns_are_chosen_by_name(large, typed, eatnas_within):
    shown = typed("query best small --columns fitness,id --limit 1", 80).split()
    assert [word for word in shown if "─" not in word] == ["fitness", "id", "0.1000", "10"]
    assert eatnas_within("query", "best", "small", "--columns", "id", "--limit", "1", "--format", "csv") == "id\n10\n"
    assert eatnas_within("query", "best", "small", "--columns", "id", "--limit", "1", "--format", "json").split() == [
        *("[", "{", '"id":', "10", "}", "]")
    ]
    message = eatnas_within("query", "best", "small", "--columns", "fitnes", expect=1)
    assert "no column 'fitnes'; did you mean fitness?; the columns are: id, birth, fitness" in message


def test_wide_table_shows_codes_in_full(large, typed):
    assert "…" not in typed("query best small --wide", 80)
    assert "…" in typed("query pareto small", 80)


def test_columns_that_do_not_fit_are_named(large, typed, capsys):
    assert "source" not in typed("data list", 80)
    assert capsys.readouterr().err == "note: the terminal is too narrow for source; --wide shows all columns\n"


TEXT = st.text(st.sampled_from("ab ä漢́/_"), max_size=60)


@given(st.lists(st.tuples(TEXT, TEXT, st.integers()), max_size=4), st.integers(40, 100))
def test_any_table_fits(rows, width):
    records = [{"name": name, "code": code, "n": number} for name, code, number in rows]
    table = lay_out(records, ("name", "code", "n"), width)
    assert all(text_width(line) <= width for line in table.lines)


@given(TEXT, st.integers(3, 40))
def test_shortened_text_keeps_both_ends(text, width):
    short = shorten(text, width)
    assert text_width(short) <= width
    assert short == text or (short.count("…") == 1 and text.startswith(short.split("…")[0]))
    assert all(text_width(line) <= width for line in fold(text, width))
