"""`transfer --plan` shows the first networks of a planned transfer, and the advice about sources."""

import json
import shlex

import pytest

from eatnas_cli.advice import print_advice
from eatnas_cli.sentences import fold_command
from eatnas_db.search_advice import SearchAdvice

SPEC = """
name: larger
space: eatnas-tiny
data: {name: digits, train_images: 200, validation_images: 64}
training: {epochs: 2, batch_size: 32}
evolution: {population: 4, tournament: 2, lag: 4, births: guided}
transfer: {start: model}
"""


@pytest.mark.slow
def test_plan_writes_nothing_and_prints_whole_sentences(tiny, without_mlflow, eatnas, spec):
    spec(SPEC)
    file = "spec.yaml"
    eatnas("run", "tiny", "--slots", "1")
    before = eatnas("search", "list", "--format", "json")
    text = eatnas("transfer", "tiny", file, "--plan")
    assert any("a smaller task" in line and "candidates of this task" in line for line in text.splitlines())
    assert "the model uses 4 scores of tiny" in " ".join(text.split())
    assert "nothing was created" in text
    plan = json.loads(eatnas("transfer", "tiny", file, "--plan", "--format", "json"))
    assert [source["search"] for source in plan["sources"]] == ["tiny"]
    assert plan["smaller"]["epochs"] == 1
    assert eatnas("search", "list", "--format", "json") == before
    message = eatnas("transfer", "tiny", file, "--plan", "--set", "evolution.births=mutation", expect=1)
    assert "evolution.births: guided" in message


def test_format_needs_a_plan(tiny, eatnas_within, spec):
    message = eatnas_within("transfer", "tiny", spec(SPEC), "--format", "json", expect=1)
    assert "add --plan" in message


@pytest.mark.parametrize("name", ["a folder", "somebody's folder"])
def test_printed_command_keeps_quoted_words_whole(capsys, name):
    file = f"{name} whose name has many words in it/with a spec of a long name as well.yaml"
    command = f"eatnas-db search create {shlex.quote(file)} --set name=pilot"
    print_advice(SearchAdvice(None, None, None, 3, None, (), (f"This trains a pilot: {command}",)))
    sentence, printed = capsys.readouterr().out.split("\n", 1)
    assert sentence == "This trains a pilot:"
    assert printed == f"  {command}\n"
    lines = fold_command(command, 80)
    assert len(lines) > 1
    assert lines[-1] == "      --set name=pilot"
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(command)
