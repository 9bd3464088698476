"""Find search spaces by name, and convert a space to and from its form in the record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Set
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from eatnas_db.domain.cell_space import CELL_PRESETS, CellSpace
from eatnas_db.domain.macro import PRESETS, Macro
from eatnas_db.domain.operators import BUILT_IN_OPERATORS, Operator
from eatnas_db.domain.space_definition import SpaceDefinition
from eatnas_db.domain.suggestions import did_you_mean
from eatnas_db.errors import NotFoundError, PluginError
from eatnas_db.plugins import OPERATORS, SPACES, Plugin, PluginIdentity, find_plugin, list_plugins

if TYPE_CHECKING:  # this import loads pydantic
    from eatnas_db.domain.spec import SearchSpec

BUILT_IN_SPACES: Final[Mapping[str, SpaceDefinition]] = {**PRESETS, **CELL_PRESETS}
_OWN_PACKAGES: Final = ("eatnas_db", "eatnas_training")
_OPERATORS: Final = {operator.name: operator for operator in BUILT_IN_OPERATORS}


def list_plugin_spaces() -> dict[str, Plugin]:
    """Return the spaces of installed packages by name, except spaces with the name of a built-in space."""
    return {name: plugin for name, plugin in list_plugins(SPACES).items() if name not in BUILT_IN_SPACES}


def describe_conflict(plugin: Plugin) -> str | None:
    """Return the reason why a space or an operator of a package is never used; None if its name is unique."""
    kind = {**dict.fromkeys(BUILT_IN_SPACES, "space"), **dict.fromkeys(_OPERATORS, "operator")}.get(plugin.name)
    if kind is None:
        return None
    return (
        f"{plugin} has the name of a built-in {kind}, which takes precedence; rename its entry point, or uninstall it"
    )


def find_space(name: str) -> SpaceDefinition:
    """Return a space by name. Raises `NotFoundError`, or `PluginError` if its package cannot be used."""
    if name in BUILT_IN_SPACES:
        return BUILT_IN_SPACES[name]
    plugins = list_plugin_spaces()
    if name not in plugins:
        known = (*BUILT_IN_SPACES, *plugins)
        raise NotFoundError(f"no space named {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
    return _load_space(plugins[name])


def find_operator(name: str) -> Operator:
    """Return an operator by name. Raises `PluginError` if no package defines it or its package cannot be used."""
    if name in _OPERATORS:
        return _OPERATORS[name]
    plugin = find_plugin(OPERATORS, name)
    operator = plugin.load_quickly()
    if not isinstance(operator, Operator) or operator.name != name:
        raise PluginError(f"{plugin} is not an Operator with the name {name!r}; fix the package that defines it")
    return operator


def space_of_spec(spec: SearchSpec) -> SpaceDefinition:
    """Return the space that a spec names or defines. Raises `NotFoundError` or `PluginError`."""
    if isinstance(spec.space, str):
        return find_space(spec.space)
    return spec.space.to_macro(tuple(map(find_operator, spec.space.ops or _OPERATORS)))


def store_space(space: SpaceDefinition) -> dict[str, Any]:
    """Return a space as the record stores it, with the identities of the plug-ins that it needs."""
    stored = space.to_json()
    used: list[Plugin] = []
    parts: list[str | None] = []
    plugin = None if space.name in BUILT_IN_SPACES else list_plugins(SPACES).get(space.name)
    if plugin is not None and plugin.load_quickly() is space:
        used.append(plugin)
        parts += [space.network, space.inheritance]
        if type(space) not in (Macro, CellSpace):  # a package's class may override any method
            stored["plugin"] = plugin.reference
    for name in stored.get("ops", ()):
        operator = find_operator(name)
        if isinstance(space, Macro) and space.operator(name) is not operator:
            raise PluginError(
                f"space {space.name} has an operator {name} that is not the one of {OPERATORS}; rename it, and add an "
                "entry point for it"
            )
        if name not in _OPERATORS:
            used.append(find_plugin(OPERATORS, name))
            parts += [operator.module, operator.inherit]
    used += _list_other_packages(parts, {*_OWN_PACKAGES, *(plugin.package for plugin in used)})
    if used:
        stored["plugins"] = [plugin.identity().to_json() for plugin in used]
    return stored


def _list_other_packages(references: Iterable[str | None], known: Set[str]) -> list[Plugin]:
    """Return one reference into each package that is not in `known`, in the order of `references`."""
    plugins = [Plugin(reference, reference) for reference in references if reference is not None]
    first = {plugin.package: plugin for plugin in reversed(plugins) if plugin.package not in known}
    return list(reversed(first.values()))


def read_space(stored: Mapping[str, Any]) -> SpaceDefinition:
    """Return the space that the record stores as `stored`.

    Raises `PluginError` if a plug-in that it needs is missing or has changed.
    """
    return _read_space(json.dumps(stored))


@lru_cache(maxsize=64)
def _read_space(stored: str) -> SpaceDefinition:
    fields: dict[str, Any] = json.loads(stored)
    for identity in fields.pop("plugins", ()):
        PluginIdentity.from_json(identity).require_installed()
    if "plugin" in fields:
        return _load_space(Plugin(fields["name"], fields["plugin"]))
    if "cells" in fields:
        return CellSpace(**fields)
    if "ops" in fields:
        fields["operators"] = [find_operator(name) for name in fields.pop("ops")]
    return Macro.from_json(fields)


def _load_space(plugin: Plugin) -> SpaceDefinition:
    space = plugin.load_quickly()
    if not isinstance(space, SpaceDefinition) or getattr(space, "name", None) != plugin.name:
        raise PluginError(
            f"{plugin} is not a SpaceDefinition with the name {plugin.name!r}; fix the package that defines it"
        )
    if not isinstance(getattr(space, "network", None), str):
        raise PluginError(
            f"the `network` of {plugin} must be the name of the function that builds a network, as 'module:name'; "
            "fix the package that defines the space"
        )
    return space
