"""`space …`: show search spaces, sample architectures and compute their cost. These commands need no database."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from eatnas_cli.layout_options import layout_options
from eatnas_cli.lazy_group import new_app
from eatnas_cli.option_groups import takes_options
from eatnas_cli.options import FormatOption
from eatnas_cli.printing import FITTING, Format, Layout, print_json_lines, show
from eatnas_cli.task_values import DEFAULT_TASK, MAX_VALUES, Channels, Classes, Resolution
from eatnas_db.domain.architecture import WIDTHS, Architecture
from eatnas_db.domain.macro import Macro, Task
from eatnas_db.domain.operators import BUILT_IN_OPERATORS
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.domain.space_definition import SpaceDefinition
from eatnas_db.errors import EatnasError, InvalidArchitectureError, NotFoundError, PluginError
from eatnas_db.plugins import OPERATORS, SPACES, Plugin, list_plugins
from eatnas_db.spaces import BUILT_IN_SPACES, describe_conflict, find_operator, find_space, list_plugin_spaces
from eatnas_db.strict_json import parse_json
from eatnas_db.urls import expand_home
from eatnas_protocol.long_texts import shorten_middle

app = new_app(no_args_is_help=True)

DEFAULT_SPACE: Final = "eatnas-small"
MAX_MESSAGE_LENGTH: Final = 300
LIST_COLUMNS: Final = ("kind", "name", "package", "version", "error")
COST_COLUMNS: Final = ("code", "resolution", "channels", "classes", "params", "mult_adds")

SpaceName = Annotated[str, typer.Option("--space", help="Name of a search space.")]
LinesOption = Annotated[Format, typer.Option("--format", help="Output format; json prints one object per line.")]


@app.command("show")
@takes_options(layout=layout_options)
def show_spaces(
    name: Annotated[str | None, typer.Argument(help="Name of a search space. Default: all spaces.")] = None,
    format: FormatOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Show all search spaces, or the blocks of one."""
    rows = list(_summaries()) if name is None else list(_blocks(find_space(name)))
    show(rows, list(rows[0]), format, layout=layout)


@app.command("list")
@takes_options(layout=layout_options)
def list_spaces(format: FormatOption = Format.TABLE, layout: Layout = FITTING) -> None:  # noqa: A002
    """List the search spaces and operators, with the packages that add them."""
    built_in = {"package": "built-in", "version": None, "error": None}
    rows = [{"kind": "space", "name": name, **built_in} for name in BUILT_IN_SPACES]
    rows += [{"kind": "operator", "name": operator.name, **built_in} for operator in BUILT_IN_OPERATORS]
    for kind, plugins, find in (
        ("space", list_plugins(SPACES), find_space),
        ("operator", list_plugins(OPERATORS), find_operator),
    ):
        rows += [_describe_plugin(kind, name, plugin, find) for name, plugin in plugins.items()]
    show(rows, LIST_COLUMNS, format, layout=layout)


@app.command()
@takes_options(layout=layout_options)
def sample(
    space: SpaceName = DEFAULT_SPACE,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random number generator.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of different architectures to sample.")] = 1,
    resolution: Resolution = DEFAULT_TASK["resolution"],
    channels: Channels = DEFAULT_TASK["channels"],
    classes: Classes = DEFAULT_TASK["classes"],
    format: LinesOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Sample random architectures; `space cost` reads the JSON output."""
    search_space = Space(find_space(space), Task(resolution, channels, classes))
    digests: set[str] = set()
    rows = []
    for number in range(count):
        proposal = search_space.sample(KeyedRng(seed, "sample", number), digests.__contains__)
        digests.add(proposal.digest)
        task = {"resolution": resolution, "channels": channels, "classes": classes}
        costs = {"params": proposal.cost.params, "mult_adds": proposal.cost.mult_adds}
        rows.append({"code": str(proposal.architecture), **task, **costs})
    _write_codes(rows, COST_COLUMNS, format, layout)


@app.command("cost")
@takes_options(layout=layout_options)
def compute_costs(
    file: Annotated[
        str,
        typer.Argument(help="File of JSON lines with `code` and `classes`. Default: `-`, which reads stdin."),
    ] = "-",
    space: SpaceName = DEFAULT_SPACE,
    format: LinesOption = Format.TABLE,  # noqa: A002
    layout: Layout = FITTING,
) -> None:
    """Compute the parameters and mult-adds of architectures without building networks.

    Each line of FILE is an object with `code` (a list, or its readable form as a string) and `classes`. `resolution`
    (default 32) and `channels` (default 3) are optional. The output contains all other fields unchanged.
    """
    searched = find_space(space)
    rows = [_compute_row(number, line, searched) for number, line in enumerate(_lines(file), 1) if line.strip()]
    _write_codes(rows, COST_COLUMNS, format, layout)


def _lines(file: str) -> Iterator[bytes]:
    if file == "-":
        yield from sys.stdin.buffer
        return
    try:
        with expand_home(Path(file)).open("rb") as lines:
            yield from lines
    except OSError as error:
        raise NotFoundError(f"{file} cannot be read: {error.strerror or error}") from None


def _compute_row(number: int, line: bytes, space: SpaceDefinition) -> dict[str, Any]:
    try:
        fields = parse_json(line)
        if not isinstance(fields, dict):
            raise InvalidArchitectureError("not an object with `code` and `classes`")
        if "code" not in fields:
            raise InvalidArchitectureError("code is missing")
        task = {name: _read_positive(fields, name) for name in DEFAULT_TASK}
        code = fields["code"]
        architecture = space.parse(code) if isinstance(code, str) else Architecture.from_code(code)
        space.require_block_count(architecture)
        counted, _ = space.measure(architecture, Task(**task))
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


def _describe_plugin(kind: str, name: str, plugin: Plugin, find: Callable[[str], object]) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "name": name, "package": plugin.package, "version": None, "error": None}
    try:
        row["version"] = plugin.identity().version
        row["error"] = describe_conflict(plugin)
        find(name)
    except PluginError as error:
        row["error"] = str(error)
    return row


def _summaries() -> Iterator[dict[str, Any]]:
    """Yield a row for each usable space. `space list` also shows unusable spaces."""
    yield from map(_summary, BUILT_IN_SPACES.values())
    for name in list_plugin_spaces():
        with contextlib.suppress(PluginError):
            yield _summary(find_space(name))


def _summary(definition: SpaceDefinition) -> dict[str, Any]:
    space = Space(definition, Task(**DEFAULT_TASK))
    fields = ("stem_channels", "stem_stride", "head_channels", "multiplier", "reduction")
    return {
        "name": definition.name,
        "blocks": len(definition.blocks),
        **{field: getattr(definition, field, None) for field in fields},
        "codes": space.code_count,
        "neighbours": space.neighbour_count,
    }


def _blocks(space: SpaceDefinition) -> Iterator[dict[str, Any]]:
    if not isinstance(space, Macro):
        for number, primitives in enumerate(space.blocks, 1):
            yield {
                "block": number,
                **{primitive: " ".join(map(str, values)) for primitive, values in primitives.items()},
            }
        return
    for position, (stride, base) in enumerate(zip(space.strides, space.base, strict=True)):
        widths = {f"channels_at_{width}": space.block_channels(position, width) for width in WIDTHS}
        operators = {"op": " ".join(map(str, space.blocks[position]["op"]))} if space.has_own_operators else {}
        yield {"block": position + 1, "stride": stride, "base": base, **widths, **operators}


def _write_codes(
    rows: list[dict[str, Any]],
    columns: Any,
    format: Format,  # noqa: A002
    layout: Layout,
) -> None:
    if format is Format.JSON:
        print_json_lines(rows)
    else:
        show(rows, columns, format, layout=layout)
