"""The commands on search spaces."""

import json
import time
from pathlib import Path

import pytest

from eatnas_cli.space import app as space_app
from eatnas_db.errors import InvalidArchitectureError, NotFoundError
from eatnas_db.settings import Settings, load_settings
from support.commands import run_command

MAX_SECONDS = 10
"""The limit in seconds of CPU time.

On a quiet machine, linear work takes a second, and quadratic work takes minutes.
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return the settings of a home without a record."""
    return load_settings({}, str(tmp_path_factory.mktemp("home")))


def test_spaces_are_shown(settings: Settings) -> None:
    assert "eatnas-cifar" in run_command(space_app, settings, "show")
    blocks = run_command(space_app, settings, "show", "eatnas-tiny", "--format", "json")
    assert len(json.loads(blocks)) == 7
    with pytest.raises(NotFoundError, match="did you mean eatnas-tiny"):
        run_command(space_app, settings, "show", "eatnas-tin")


@pytest.mark.slow
def test_ten_thousand_codes_take_seconds(settings: Settings, tmp_path: Path) -> None:
    codes = run_command(space_app, settings, "sample", "--count", 100, "--format", "json")
    file = tmp_path / "codes"
    file.write_text(codes * 100)
    start = time.process_time()
    costs = run_command(space_app, settings, "cost", file, "--format", "json")
    assert time.process_time() - start < MAX_SECONDS
    assert costs == codes * 100
    start = time.process_time()
    assert len(run_command(space_app, settings, "cost", file).strip().splitlines()) == 10_002
    assert time.process_time() - start < MAX_SECONDS


def test_both_forms_of_a_code_have_the_same_cost(settings: Settings, tmp_path: Path) -> None:
    code = [[2, 0, 1, 3, 1.0]] * 7
    lines = [
        {"code": code, "classes": 10, "mine": "kept"},
        {"code": "/".join(["mb6_k3_d4_w1.0_skip"] * 7), "classes": 10, "resolution": 32, "channels": 3},
    ]
    file = tmp_path / "codes"
    file.write_text("\n\n".join(map(json.dumps, lines)))
    output = run_command(space_app, settings, "cost", file, "--format", "json")
    first, second = map(json.loads, output.splitlines())
    assert first["mine"] == "kept"
    assert first["code"] == code
    assert (first["params"], first["mult_adds"]) == (second["params"], second["mult_adds"])
    assert f"{first['params']:,}" in run_command(space_app, settings, "cost", file)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"classes": 10}',
        b'{"code": 3, "classes": 10}',
        b'{"code": "sep", "classes": 10}',
        b'{"code": [[0,0,0,0,1.0]], "classes": 10}',
        b'{"code": [[0,0,0,0,[]]], "classes": 10}',
        b'{"code": [[0,0,0,0,1.0]]}',
        b'{"code": [[0,0,0,0,1.0]], "classes": true}',
        b'{"code": [[0,0,0,0,1.0]], "classes": 10, "resolution": 0}',
        b'{"code": [[0,0,0,0,NaN]], "classes": 10}',
        b'{"code": "\\ud800\\n", "classes": 10}',
    ],
)
def test_an_invalid_line_is_named_in_one_line(settings: Settings, tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "codes"
    valid = json.dumps({"code": [[0, 0, 0, 0, 1.0]] * 7, "classes": 10}).encode()
    file.write_bytes(valid + b"\n" + line + b"\n")
    with pytest.raises(InvalidArchitectureError, match=r"^line 2: [^\n]+$") as raised:
        run_command(space_app, settings, "cost", file)
    str(raised.value).encode()
