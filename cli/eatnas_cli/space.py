"""`space …`: show search spaces, sample architectures and compute their cost; needs no database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.printing import FITTING, Format, Layout, print_json_lines, show
from eatnas_db.domain.architecture import WIDTHS, Architecture
from eatnas_db.domain.cost import compute_cost
from eatnas_db.domain.macro import PRESETS, Macro, Task
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.domain.suggestions import did_you_mean
from eatnas_db.errors import EatnasError, InvalidArchitectureError, NotFoundError
from eatnas_db.strict_json import parse_json
from eatnas_db.urls import expand_home
from eatnas_protocol.long_texts import shorten_middle

app = new_app(no_args_is_help=True)

DEFAULT_SPACE: Final = "eatnas-small"
DEFAULT_TASK: Final = {"resolution": 32, "channels": 3, "classes": 10}
MAX_VALUES: Final = {"resolution": 65_536, "channels": 65_536, "classes": 100_000_000}
MAX_MESSAGE_LENGTH: Final = 300
COST_COLUMNS: Final = ("code", "resolution", "channels", "classes", "params", "mult_adds")

SpaceName = Annotated[str, typer.Option("--space", help="Name of a search space.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Output format; json prints one object per line.")]


@app.command("show")
@takes_options(layout=layout_options)
def show_spaces(
    name: Annotated[str | None, typer.Argument(help="Name of a search space. Default: all spaces.")] = None,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Show all search spaces, or the blocks of one."""
    rows = [_summary(macro) for macro in PRESETS.values()] if name is None else list(_blocks(_macro(name)))
    _write(rows, list(rows[0]), format, layout)


@app.command()
@takes_options(layout=layout_options)
def sample(
    space: SpaceName = DEFAULT_SPACE,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of different architectures.")] = 1,
    resolution: Annotated[int, typer.Option(min=1, max=MAX_VALUES["resolution"])] = DEFAULT_TASK["resolution"],
    channels: Annotated[int, typer.Option(min=1, max=MAX_VALUES["channels"])] = DEFAULT_TASK["channels"],
    classes: Annotated[int, typer.Option(min=1, max=MAX_VALUES["classes"])] = DEFAULT_TASK["classes"],
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Sample random architectures; `space cost` reads the JSON output."""
    search_space = Space(_macro(space), Task(resolution, channels, classes))
    digests: set[str] = set()
    rows = []
    for number in range(count):
        proposal = search_space.sample(KeyedRng(seed, "sample", number), digests.__contains__)
        digests.add(proposal.digest)
        task = {"resolution": resolution, "channels": channels, "classes": classes}
        costs = {"params": proposal.cost.params, "mult_adds": proposal.cost.mult_adds}
        rows.append({"code": str(proposal.architecture), **task, **costs})
    _write(rows, COST_COLUMNS, format, layout)


@app.command("cost")
@takes_options(layout=layout_options)
def compute_costs(
    file: Annotated[
        str, typer.Argument(help="File of JSON lines with code, resolution and classes; `-` reads stdin.")
    ] = "-",
    space: SpaceName = DEFAULT_SPACE,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Compute the parameters and mult-adds of architectures without building networks.

    Each line is an object with `code` (a list or the readable text) and `classes`; `resolution` (32) and
    `channels` (3) are optional. Other fields are copied to the output.
    """
    macro = _macro(space)
    rows = [_compute_row(number, line, macro) for number, line in enumerate(_lines(file), 1) if line.strip()]
    _write(rows, COST_COLUMNS, format, layout)


def _lines(file: str) -> Iterator[bytes]:
    if file == "-":
        yield from sys.stdin.buffer
        return
    try:
        with expand_home(Path(file)).open("rb") as lines:
            yield from lines
    except OSError as error:
        raise NotFoundError(f"{file} cannot be read: {error.strerror or error}") from None


def _compute_row(number: int, line: bytes, macro: Macro) -> dict[str, Any]:
    try:
        fields = parse_json(line)
        if not isinstance(fields, dict):
            raise InvalidArchitectureError("not an object with code, resolution and classes")
        if "code" not in fields:
            raise InvalidArchitectureError("code is missing")
        task = {name: _read_positive(fields, name) for name in DEFAULT_TASK}
        code = fields["code"]
        architecture = Architecture.parse(code) if isinstance(code, str) else Architecture.from_code(code)
        counted = compute_cost(architecture, macro, Task(**task))
    except EatnasError as error:
        raise InvalidArchitectureError(_with_line_number(number, str(error))) from None
    except (ValueError, RecursionError) as error:
        raise InvalidArchitectureError(_with_line_number(number, f"not JSON: {error}")) from None
    return {**fields, **task, "params": counted.params, "mult_adds": counted.mult_adds}


def _read_positive(fields: dict[str, Any], name: str) -> int:
    if name == "classes" and name not in fields:
        raise InvalidArchitectureError("classes is missing")
    value = fields.get(name, DEFAULT_TASK[name])
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_VALUES[name]:
        raise InvalidArchitectureError(f"{name} {value!r} is not a whole number from 1 to {MAX_VALUES[name]}")
    return value


def _with_line_number(number: int, message: str) -> str:
    return f"line {number}: {shorten_middle(' '.join(message.split()), MAX_MESSAGE_LENGTH)}"


def _macro(name: str) -> Macro:
    if name in PRESETS:
        return PRESETS[name]
    raise NotFoundError(f"no space named {name!r}{did_you_mean(name, PRESETS)} (known: {', '.join(PRESETS)})")


def _summary(macro: Macro) -> dict[str, Any]:
    space = Space(macro, Task(**DEFAULT_TASK))
    return {
        "name": macro.name,
        "blocks": len(macro.base),
        "stem_channels": macro.stem_channels,
        "stem_stride": macro.stem_stride,
        "head_channels": macro.head_channels,
        "multiplier": macro.multiplier,
        "reduction": macro.reduction,
        "codes": space.code_count,
        "neighbours": space.neighbour_count,
    }


def _blocks(macro: Macro) -> Iterator[dict[str, Any]]:
    for position, (stride, base) in enumerate(zip(macro.strides, macro.base, strict=True)):
        widths = {f"channels_at_{width}": macro.block_channels(position, width) for width in WIDTHS}
        yield {"block": position + 1, "stride": stride, "base": base, **widths}


def _write(
    rows: list[dict[str, Any]],
    columns: Any,
    format: Format,  # noqa: A002
    layout: Layout,
) -> None:
    if format is Format.JSON:
        print_json_lines(rows)
    else:
        show(rows, columns, format, layout=layout)
