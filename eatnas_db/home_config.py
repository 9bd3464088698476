"""Read the settings of one home: its optional `config.yaml`, and the environment, which takes precedence.

Only the daemon, its hooks and `doctor` import this module, because pydantic and the YAML parser are slow to load.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from eatnas_db.domain.plain_scalars import plain_texts, plain_values
from eatnas_db.errors import EatnasError
from eatnas_db.urls import expand_home
from eatnas_db.worker_settings import (
    ADDRESS,
    CPUS,
    GPUS,
    LAUNCHERS,
    WorkerSettings,
    is_number_of_cpus,
    is_share_of_gpu,
    require_head_address,
)
from eatnas_db.yaml_files import YamlFormatError, parse_yaml

MAX_BYTES_VARIABLE: Final = "EATNAS_MAX_BYTES"
WORKER_VARIABLES: Final = {
    "launcher": "EATNAS_LAUNCHER",
    "address": "EATNAS_RAY_ADDRESS",
    "cpus_per_worker": "EATNAS_CPUS_PER_WORKER",
    "gpus_per_worker": "EATNAS_GPUS_PER_WORKER",
}
HookEvent = Literal["finished", "failed", "paused", "waiting"]
HOOK_EVENTS: Final[tuple[HookEvent, ...]] = get_args(HookEvent)

_SIZE: Final = re.compile(r"\s*\d+(\.\d+)?\s*([kmgt]i?)?b?\s*", re.IGNORECASE)
_SIZE_EXAMPLES: Final = "a number of bytes above 0, or a size such as 500MB, 20GB or 1.5TB"


def _require_size(value: object) -> object:
    # ByteSize ignores the text after a number ("1,5TB" is 1 byte), and counts YAML's `yes` as 1.
    value = plain_values(value)
    if isinstance(value, bool) or (isinstance(value, str) and not _SIZE.fullmatch(value)):
        raise ValueError
    return value


def _split_command(value: object) -> object:
    if isinstance(value, str):
        parts: object = shlex.split(value)
    else:
        # Every argument of a command is a string, even 8080.
        parts = plain_texts(value) if isinstance(value, list) else plain_values(value)
    if not isinstance(parts, list):
        return parts
    # Replace `~` as a shell would, because the command is started without a shell.
    return [str(expand_home(Path(part))) if isinstance(part, str) and part.startswith("~") else part for part in parts]


Size = Annotated[ByteSize, BeforeValidator(_require_size), Field(gt=0)]
Command = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_split_command), Field(min_length=1)
]

LauncherName = Annotated[Literal["local", "ray"], BeforeValidator(plain_texts)]


def _require_head_address(address: str) -> str:
    require_head_address(address)
    return address


def _refuse_boolean(value: object) -> object:
    value = plain_values(value)
    if isinstance(value, bool):
        raise ValueError
    return value


def _require(check: Callable[[float], bool]) -> Callable[[float], float]:
    def require(value: float) -> float:
        if not check(value):
            raise ValueError
        return value

    return require


HeadAddress = Annotated[str, BeforeValidator(plain_texts), AfterValidator(_require_head_address)]
Cpus = Annotated[float, BeforeValidator(_refuse_boolean), AfterValidator(_require(is_number_of_cpus))]
Gpus = Annotated[float, BeforeValidator(_refuse_boolean), AfterValidator(_require(is_share_of_gpu))]


class _ConfigSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StorageConfig(_ConfigSection):
    """Limits for the disk space of a home."""

    max_bytes: Size | None = Field(None, description=_SIZE_EXAMPLES)


class HooksConfig(_ConfigSection):
    """The user's command with its arguments, and the kinds of events that start the command."""

    on_event: Command = Field(description="a command with its arguments, as a string or a list of strings")
    events: tuple[HookEvent, ...] = Field(
        HOOK_EVENTS, min_length=1, description=f"a list of one or more of {', '.join(HOOK_EVENTS)}"
    )


class WorkersConfig(_ConfigSection):
    """Where workers run, and the resources that each worker occupies in a Ray cluster."""

    launcher: LauncherName | None = Field(None, description=" or ".join(LAUNCHERS))
    address: HeadAddress | None = Field(None, description=ADDRESS)
    cpus_per_worker: Cpus | None = Field(None, description=CPUS)
    gpus_per_worker: Gpus | None = Field(None, description=GPUS)


class HomeConfig(_ConfigSection):
    """The content of `config.yaml`."""

    storage: StorageConfig | None = Field(None, description="a mapping with the key max_bytes")
    hooks: HooksConfig | None = Field(None, description="a mapping with the keys on_event and events")
    workers: WorkersConfig | None = Field(
        None, description="a mapping with the keys launcher, address, cpus_per_worker and gpus_per_worker"
    )

    @field_validator("hooks", mode="before")
    @classmethod
    def _allow_no_command(cls, value: object) -> object:
        return None if value in ({}, {"on_event": None}) else value


def read_max_bytes(home: Path, environment: Mapping[str, str]) -> int | None:
    """Return the maximum number of bytes that a home may use: `EATNAS_MAX_BYTES`, else the home's `storage.max_bytes`,
    else None.

    Raises an `EatnasError` that names the invalid value and its place.
    """
    if given := environment.get(MAX_BYTES_VARIABLE):
        try:
            return TypeAdapter(Size).validate_python(given)
        except ValidationError:
            raise EatnasError(f"{MAX_BYTES_VARIABLE} is {given!r}; expected {_SIZE_EXAMPLES}") from None
    storage = _read_section(home, "storage").storage
    return None if storage is None else storage.max_bytes


def read_hooks(home: Path) -> HooksConfig | None:
    """Return the `hooks` of a home, or None if the home has none.

    Raises an `EatnasError` that names the invalid value and its place.
    """
    return _read_section(home, "hooks").hooks


def read_worker_settings(home: Path, environment: Mapping[str, str]) -> WorkerSettings:
    """Return the settings that determine where workers run.

    Each value is from the environment variable in `WORKER_VARIABLES`, else from the key of `workers`, else None.

    Raises an `EatnasError` that names the invalid value and its place.
    """
    config = _read_section(home, "workers").workers or WorkersConfig()
    values = config.model_dump()
    for key, variable in WORKER_VARIABLES.items():
        if given := environment.get(variable):
            try:
                values[key] = getattr(WorkersConfig.model_validate({key: given}), key)
            except ValidationError as error:
                expected = WorkersConfig.model_fields[key].description
                cause = _cause(error.errors()[0])
                raise EatnasError(f"{variable} is {given!r}{cause}; expected {expected}") from None
    return WorkerSettings(**values)


def _read_section(home: Path, name: str) -> HomeConfig:
    """Validate one section and the names of all sections.

    Mistakes in other sections are left to the functions that read those sections.
    """
    file = home / "config.yaml"
    try:
        tree = parse_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return HomeConfig()
    except (YamlFormatError, UnicodeDecodeError) as error:
        raise EatnasError(f"{file} is not valid YAML: {error}") from None
    if isinstance(tree, dict):
        tree = {key: value for key, value in tree.items() if key == name or key not in HomeConfig.model_fields}
    try:
        return HomeConfig.model_validate({} if tree is None else tree)
    except ValidationError as error:
        raise EatnasError(_describe(error, tree, file)) from None


_MODELS: Final[dict[tuple[str, ...], type[_ConfigSection]]] = {
    (): HomeConfig,
    ("storage",): StorageConfig,
    ("hooks",): HooksConfig,
    ("workers",): WorkersConfig,
}


def _describe(error: ValidationError, tree: Any, file: Path) -> str:
    """Describe the first mistake in one line: its place, the value and the allowed values."""
    # Report a misspelt key first, because it may explain why another key is missing.
    tree = plain_values(tree)
    mistake = min(error.errors(), key=lambda details: details["type"] != "extra_forbidden")
    names = tuple(name for name in mistake["loc"] if isinstance(name, str))
    if not names:
        return f"{file} is {tree!r}; expected a mapping with the keys {' and '.join(HomeConfig.model_fields)}"
    *parents, name = names
    fields = _MODELS[tuple(parents)].model_fields
    section = ": ".join(map(str, (file, *parents)))
    if name not in fields:
        return f"{section}: unknown key {name!r}; known keys: {', '.join(fields)}"
    path, expected = ".".join(names), fields[name].description
    if mistake["type"] == "missing":
        return f"{file}: {path} is missing; expected {expected}"
    value = tree
    for name in names:
        value = value[name]
    return f"{file}: {path} is {value!r}{_cause(mistake)}; expected {expected}"


def _cause(mistake: Mapping[str, Any]) -> str:
    """Return ` (MESSAGE)` if a check of this module found the mistake, otherwise an empty string."""
    cause = mistake["msg"].removeprefix("Value error, ").strip() if mistake["type"] == "value_error" else ""
    return f" ({cause})" if cause else ""
