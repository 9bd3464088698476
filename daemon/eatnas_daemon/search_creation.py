"""Create searches: check the spec, read the data set in a process of the training package, and insert the search.

This module is also a program, for callers that must not import this package: `python -m eatnas_daemon.search_creation
[SPEC.yaml] [--slots N] [--from SOURCE [--candidate ID] [--force]]`. Without a file, the program reads the spec as JSON
from stdin. `EATNAS_HOME` and `EATNAS_DB_URL` name the home and the database. The program prints `{"id": …, "name": …}`.
After an error, it prints one line on stderr and exits with status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection

from eatnas_daemon.data_sets import NO_IMAGES, DataDescription, describe_data_set
from eatnas_daemon.devices.capacity import count_slots
from eatnas_daemon.devices.model import CPU
from eatnas_daemon.devices.monitor import probe_once
from eatnas_daemon.devices.nvml import Nvml
from eatnas_daemon.programs import check_program
from eatnas_db.database.engine import open_record, opened_engine, write_record
from eatnas_db.domain.data_source import names_a_path, with_absolute_path
from eatnas_db.domain.data_state import NO_DATA, NO_DATA_CHANNELS, NO_DATA_CLASSES, NO_DATA_RESOLUTION
from eatnas_db.domain.macro import Task
from eatnas_db.domain.objective import LATENCY
from eatnas_db.domain.objectives import latency_settings, list_objectives
from eatnas_db.domain.spec import SearchSpec, parse_spec
from eatnas_db.domain.spec_program import ProgramSpec
from eatnas_db.errors import DataError, EatnasError, InvalidSpecError, describe_os_error
from eatnas_db.input_files import read_input
from eatnas_db.plugins import PluginIdentity, find_function
from eatnas_db.queries.events import list_events
from eatnas_db.searches.create import create_search
from eatnas_db.searches.fitted_sources import write_with_sources
from eatnas_db.searches.transfer import create_transfer
from eatnas_db.settings import Settings, load_settings
from eatnas_db.spaces import list_plugin_spaces
from eatnas_db.strict_json import parse_json
from eatnas_db.urls import expand_home
from eatnas_db.yaml_files import YamlFormatError, parse_yaml

if TYPE_CHECKING:  # not imported at run time, because `transfer_sources` loads SciPy
    from eatnas_db.transfer_sources import FittedSource


@dataclass(frozen=True, slots=True)
class CreatedSearch:
    """A new search: its id in the record, its name, and warnings about its spec, one sentence each."""

    id: int
    name: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TransferSource:
    """The search whose best candidate starts a transferred search.

    If `candidate_id` is given, this candidate starts the transferred search instead. `force` permits a source that is
    not finished.
    """

    search: str
    candidate_id: int | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class PlannedTransfer:
    """A transfer that is possible: its spec, its task, and sentences about the networks that it would start with."""

    spec: SearchSpec
    task: Task
    data: DataDescription
    start: tuple[str, ...]


MAX_SPEC_MEGABYTES: Final = 1
START_EVENTS: Final = ("transferred", "survivors_taken", "sources_modelled")
"""The kinds of events that describe the first networks of a transferred search."""


class _UndoneError(Exception):
    """Rolls back a transaction that only plans a search."""


def read_spec_file(path: Path) -> Any:
    """Return the content of a YAML spec without validating it. Raises `InvalidSpecError` if the content is not YAML."""
    try:
        return parse_yaml(read_input(path, most_megabytes=MAX_SPEC_MEGABYTES).decode("utf-8-sig"))
    except DataError as error:
        raise InvalidSpecError(str(error)) from None
    except YamlFormatError as error:
        raise InvalidSpecError(f"{path} is not YAML: {error}") from None
    except UnicodeDecodeError:
        raise InvalidSpecError(
            f"{path} is not a text file in UTF-8; a spec is YAML, see examples/digits.yaml"
        ) from None


def parse_overrides(assignments: Sequence[str], form: str = "section.key=value") -> dict[str, Any]:
    """Parse assignments KEY=VALUE with YAML values, and return the values by key. Raises `InvalidSpecError`.

    If an assignment has no `=`, the error message shows `form`, the expected form.
    """
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise InvalidSpecError(f"--set {assignment}: write {form}")
        if (replaced := _replaced_key(key, overrides)) is not None:
            raise InvalidSpecError(f"--set {assignment}: it replaces the value of --set {replaced}; remove one of them")
        if value.endswith(":"):
            raise InvalidSpecError(
                f"--set {assignment}: YAML reads a text that ends with a colon as a mapping; add the value after the "
                "colon, or quote the text"
            )
        try:
            overrides[key] = parse_yaml(value)
        except YamlFormatError as error:
            raise InvalidSpecError(f"--set {assignment}: not YAML: {error}") from None
    return overrides


def _replaced_key(key: str, overrides: Mapping[str, Any]) -> str | None:
    """Return the key of an earlier assignment that an assignment to `key` would replace, or None."""
    return next((earlier for earlier in overrides if earlier == key or earlier.startswith(f"{key}.")), None)


def describe_task(settings: Settings, spec: SearchSpec) -> tuple[Task, DataDescription]:
    """Read a spec's data set. Return the task, and the description of the data set. Raises `DataError`.

    A user's own training function may use no data set. In this case, the costs of networks are counted for images of a
    fixed shape.
    """
    if spec.data.name == NO_DATA:
        side = spec.data.resolution or NO_DATA_RESOLUTION
        return Task(side, NO_DATA_CHANNELS, NO_DATA_CLASSES), NO_IMAGES
    description = describe_data_set(settings.locate_data(spec.data.model_dump()))
    return Task(description.resolution, description.channels, description.classes), description


def create_search_from_spec(
    settings: Settings,
    tree: Any,
    *,
    overrides: Mapping[str, Any] | None = None,
    slots: int | None = None,
    source: TransferSource | None = None,
) -> CreatedSearch:
    """Create a search with its initial population from the content of a spec.

    With `source`, the search starts with a candidate of another search and its perturbations. `slots` is the number of
    slots on which the search will run, by default the number of slots of this machine. This number decides the lag,
    unless the spec sets the lag. Raises `EatnasError` without inserting anything.
    """
    parsed = parse_spec(tree, overrides, plugin_spaces=list_plugin_spaces())
    spec = _with_program(_with_absolute_paths(parsed))
    _require_measured_device(spec)
    # Open the record first, to report an error of the record before reading the data, which takes seconds.
    open_record(settings.database_url).dispose()
    task, description = describe_task(settings, spec)
    slots = slots or _default_slots(spec)

    def create(connection: Connection) -> int:
        return create_search(
            connection,
            spec,
            task=task,
            data_digest=description.data_digest,
            data_state=description.state,
            slots=slots,
            now=time.time(),
        )

    def create_transferred(connection: Connection, fitted: Sequence[FittedSource]) -> int:
        assert source is not None
        return _insert_transfer(connection, spec, source, task, description, slots, fitted)

    if source is None:
        search_id = write_record(settings.database_url, create)
    else:
        with opened_engine(settings.database_url) as engine:
            search_id = write_with_sources(engine, source.search, spec, task, create_transferred)
    return CreatedSearch(search_id, spec.name, (*spec.warnings, *description.notes))


def plan_transfer(
    settings: Settings, tree: Any, *, overrides: Mapping[str, Any], slots: int | None, source: TransferSource
) -> PlannedTransfer:
    """Create a transferred search, describe its start, and roll the creation back. Raises `EatnasError`."""
    spec = _with_absolute_paths(parse_spec(tree, overrides, plugin_spaces=list_plugin_spaces()))
    open_record(settings.database_url).dispose()
    task, description = describe_task(settings, spec)
    found: list[str] = []

    def create(connection: Connection, fitted: Sequence[FittedSource]) -> None:
        found.clear()
        search_id = _insert_transfer(connection, spec, source, task, description, slots or _default_slots(spec), fitted)
        found.extend(event.words for kind in START_EVENTS for event in list_events(connection, search_id, kind=kind))
        raise _UndoneError

    with suppress(_UndoneError), opened_engine(settings.database_url) as engine:
        write_with_sources(engine, source.search, spec, task, create)
    return PlannedTransfer(spec, task, description, tuple(found))


def _insert_transfer(
    connection: Connection,
    spec: SearchSpec,
    source: TransferSource,
    task: Task,
    description: DataDescription,
    slots: int,
    fitted: Sequence[FittedSource],
) -> int:
    return create_transfer(
        connection,
        source.search,
        spec,
        candidate_id=source.candidate_id,
        force=source.force,
        task=task,
        data_digest=description.data_digest,
        data_state=description.state,
        slots=slots,
        now=time.time(),
        fitted=fitted,
    )


def _require_measured_device(spec: SearchSpec) -> None:
    """Raise `InvalidSpecError` if the spec measures latency on a GPU and this machine has no GPU."""
    latency = latency_settings(list_objectives(spec.model_dump(mode="json")))
    if latency is not None and latency.device != CPU and all(device.kind == CPU for device in probe_once(Nvml())):
        raise InvalidSpecError(
            f"objective.metrics: {LATENCY} is measured on {latency.device}, but this machine has no GPU; "
            "use `device: cpu`, or create the search on a machine with a GPU"
        )


def _with_absolute_paths(spec: SearchSpec) -> SearchSpec:
    """Return the spec with all its paths made absolute."""
    changes = {}
    if spec.data.root:
        changes["root"] = str(expand_home(Path(spec.data.root)).absolute())
    if names_a_path(spec.data.name):
        changes["name"] = with_absolute_path(spec.data.name, Path(changes.get("root", ".")))
    return spec.model_copy(update={"data": spec.data.model_copy(update=changes)}) if changes else spec


def _with_program(spec: SearchSpec) -> SearchSpec:
    """Return the spec with the identity of its training program. Raises `PluginError` if the program cannot be used."""
    program = spec.training.program
    if program is None:
        return spec
    identity = find_function(program.reference).identity()
    if program.source_digest is not None:
        PluginIdentity(program.reference, program.version or "", program.source_digest).require_installed()
    check_program(program.reference)
    found = ProgramSpec(reference=program.reference, version=identity.version, source_digest=identity.source_digest)
    return spec.model_copy(update={"training": spec.training.model_copy(update={"program": found})})


def _default_slots(spec: SearchSpec) -> int:
    # The number of slots matters only if the spec does not set the lag.
    return 1 if spec.evolution.lag is not None else count_slots(probe_once(Nvml()), os.environ)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program. Exits with status 1 after an error."""
    parser = argparse.ArgumentParser(prog="eatnas_daemon.search_creation", description="Create a search.")
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="SPEC.yaml", help="file of the spec; default: JSON on stdin"
    )
    parser.add_argument("--slots", type=int, help="number of slots of the search; default: the slots of this machine")
    parser.add_argument("--from", dest="source", metavar="SOURCE", help="search to transfer from")
    parser.add_argument(
        "--candidate", type=int, metavar="ID", help="candidate to start with; default: the best of SOURCE"
    )
    parser.add_argument("--force", action="store_true", help="accept a SOURCE that is not finished")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(os.environ)
        tree = read_spec_file(options.file) if options.file is not None else parse_json(sys.stdin.read())
        source = None
        if options.source is not None:
            source = TransferSource(options.source, options.candidate, options.force)
        created = create_search_from_spec(settings, tree, slots=options.slots, source=source)
    except EatnasError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(describe_os_error(error))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        sys.exit(f"the spec on stdin is not JSON: {error}")
    for warning in created.warnings:
        print(f"note: {warning}", file=sys.stderr)
    print(json.dumps({"id": created.id, "name": created.name}))


if __name__ == "__main__":
    main()
