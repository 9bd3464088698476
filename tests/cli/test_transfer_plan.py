"""`transfer --plan`: what a transfer would start with, and what the record says about sources."""

import json

import pytest

SPEC = """
name: larger
space: eatnas-tiny
data: {name: digits, train_images: 200, validation_images: 64}
training: {epochs: 2, batch_size: 32}
evolution: {population: 4, tournament: 2, lag: 4, births: guided}
transfer: {start: model}
"""


@pytest.mark.slow
def test_plan_writes_nothing_and_fits_80_columns(tiny, eatnas, spec):
    file = spec(SPEC)
    eatnas("run", "tiny", "--slots", "1")
    before = eatnas("search", "list", "--format", "json")
    text = eatnas("transfer", "tiny", file, "--plan")
    assert max(map(len, text.splitlines())) <= 80
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
