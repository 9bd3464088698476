"""Find and load the plug-ins of installed packages: operators, spaces, data sets and trainings.

A package registers an object through an entry point. A spec may also name a function as `module:name`. For every
plug-in that a search uses, the record stores the version and the digest of its source.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import (
    PackageNotFoundError,
    distribution,
    distributions,
    entry_points,
    requires,
    version,
)
from pathlib import Path
from typing import Any, Final

from eatnas_db.domain.suggestions import did_you_mean
from eatnas_db.errors import PluginError, describe_os_error
from eatnas_db.time_limits import call_within_limit, plugin_seconds

OPERATORS: Final = "eatnas_db.operators"
SPACES: Final = "eatnas_db.spaces"
DATASETS: Final = "eatnas_db.datasets"
"""The groups of entry points."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """An object of an installed package; `reference` has the form `module:name`."""

    name: str
    reference: str
    rival: str | None = None
    """The reference of an object that another package registers under the same name; None if there is none."""

    @property
    def package(self) -> str:
        """The name of the top-level package or module."""
        return self.reference.partition(":")[0].partition(".")[0]

    def load_quickly(self) -> Any:
        """Return the object as `load` does, but raise `PluginError` if the import does not end in time.

        Use this method in processes that other processes wait for, such as the daemon.
        """
        key = (self.reference, digest_source(self.package))
        if key in HANGING:
            raise PluginError(HANGING[key])
        try:
            return call_within_limit(self.load, seconds=IMPORT_FACTOR * plugin_seconds())
        except TimeoutError as error:
            HANGING[key] = f"{self} cannot be imported: {error}; fix or reinstall the package that defines it"
            raise PluginError(HANGING[key]) from None

    def load(self) -> Any:
        """Import the module and return the object. Raises `PluginError` with the reason in one line."""
        self._require_one_package()
        module, _, attribute = self.reference.partition(":")
        importlib.invalidate_caches()  # finds packages that were installed after this process started
        try:
            found = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except SystemExit as error:
            raise PluginError(
                f"{self} ends the process when it is imported; fix the package that defines it"
            ) from error
        except Exception as error:  # the user's module may raise any error
            raise PluginError(
                f"{self} cannot be loaded ({_describe(error)}); fix or reinstall the package that defines it"
            ) from error
        return found

    def identity(self) -> PluginIdentity:
        """Return the version and the digest of the installed source without importing the module."""
        self._require_one_package()
        return PluginIdentity(self.reference, _find_version(self.package), digest_source(self.package))

    def _require_one_package(self) -> None:
        if self.rival is not None:
            raise PluginError(
                f"two packages define {self.name}: {self.reference} and {self.rival}; uninstall one of them"
            )

    def __str__(self) -> str:
        return self.reference if self.name == self.reference else f"{self.name} ({self.reference})"


@dataclass(frozen=True, slots=True)
class PluginIdentity:
    """The identity of a plug-in, as the record stores it; `source_digest` changes with the source."""

    reference: str
    version: str
    source_digest: str

    @classmethod
    def from_json(cls, stored: Mapping[str, str]) -> PluginIdentity:
        """Return the identity that `to_json` was called on."""
        return cls(stored["reference"], stored["version"], stored["source_digest"])

    def to_json(self) -> dict[str, str]:
        """Return the identity as plain JSON values."""
        return {"reference": self.reference, "version": self.version, "source_digest": self.source_digest}

    def require_installed(self) -> None:
        """Raise `PluginError` unless exactly this source is installed, and no other source is imported."""
        plugin = Plugin(self.reference, self.reference)
        installed = plugin.identity()
        if installed.source_digest != self.source_digest:
            if _read_digest(plugin.package) == self.source_digest:
                raise PluginError(
                    f"{self.reference} is installed as recorded, but this process has imported {plugin.package} from "
                    "another version of its source; run `eatnas-db daemon restart`"
                )
            raise PluginError(
                f"{self.reference} has changed: the record was made with version {self.version}, source "
                f"{self.source_digest[:12]}, but version {installed.version}, source {installed.source_digest[:12]}, "
                "is installed; install the recorded version, or create a new search"
            )


def list_plugins(group: str) -> dict[str, Plugin]:
    """Return the plug-ins of a group of entry points, keyed by name.

    A name that two packages register is listed but unusable.
    """
    found: dict[str, Plugin] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        first = found.setdefault(entry.name, Plugin(entry.name, entry.value))
        if first.reference != entry.value:
            found[entry.name] = replace(first, rival=entry.value)
    return found


def find_plugin(group: str, name: str) -> Plugin:
    """Return one plug-in of a group of entry points. Raises `PluginError` if no installed package defines it."""
    plugins = list_plugins(group)
    if name not in plugins:
        known = ", ".join(plugins) or "none"
        raise PluginError(
            f"no installed package defines {name} in {group}{did_you_mean(name, plugins)} (installed: {known}); "
            "install the package, or correct the name"
        )
    return plugins[name]


def find_function(reference: str) -> Plugin:
    """Return the plug-in `module:name`.

    Raises `PluginError` if `reference` has another form or its package is not installed.
    """
    module, separator, attribute = reference.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    if not separator or not all(part.isidentifier() for part in parts):
        raise PluginError(
            f"{reference!r} is not a reference of the form module:name, for example my_package.train:train"
        )
    plugin = Plugin(reference, reference)
    digest_source(plugin.package)
    return plugin


def list_versions(package: str) -> dict[str, str]:
    """Return the versions of the distribution of a top-level package and of the distributions that it requires."""
    found: dict[str, str] = {}
    name = find_distribution(package)
    if name is not None:
        required = [re.split(r"[^A-Za-z0-9._-]", entry, maxsplit=1)[0] for entry in requires(name) or []]
        for needed in (name, *required):
            with suppress(PackageNotFoundError):
                found[needed] = version(needed)
    return found


@cache
def find_distribution(package: str) -> str | None:
    """Return the distribution that installs a top-level package, or None if no distribution does.

    The function avoids `importlib.metadata.packages_distributions`, which takes seconds to parse the files of all
    distributions.
    """
    with suppress(PackageNotFoundError):
        return distribution(package).name
    for other in distributions():
        top_level = (other.read_text("top_level.txt") or "").split()
        files = "\n" + (other.read_text("RECORD") or "")
        if package in top_level or f"\n{package}/" in files or f"\n{package}.py," in files:
            return other.name
    return None


IMPORT_FACTOR: Final = 3
"""An import may take this many times as long as a call, because an import reads files."""
HANGING: Final[dict[tuple[str, str], str]] = {}
"""The errors of imports that exceeded the time limit, by reference and source digest.

These imports are not tried again.
"""
SOURCE_DIGESTS: Final[dict[str, str]] = {}
"""The source digests that this process has computed, by top-level package."""


def digest_source(package: str) -> str:
    """Return 64 hexadecimal digits that identify the Python source of a top-level package or module.

    Once the package is imported, the digest no longer changes, because later changes to the source do not reach this
    process. Raises `PluginError` if the package is not installed or cannot be read.
    """
    if package not in SOURCE_DIGESTS or package not in sys.modules:
        try:
            SOURCE_DIGESTS[package] = _read_digest(package)
        except OSError as error:
            raise PluginError(f"the package {package} cannot be read: {describe_os_error(error)}") from error
    return SOURCE_DIGESTS[package]


def _read_digest(package: str) -> str:
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise PluginError(f"the package {package} is not installed; install it in the environment of eatnas-db")
    digest = hashlib.blake2b(digest_size=32)
    if spec.submodule_search_locations is None:
        files = {spec.name: Path(spec.origin)} if spec.origin is not None and Path(spec.origin).is_file() else {}
    else:
        folders = [Path(folder) for folder in spec.submodule_search_locations]
        files = {file.relative_to(folder).as_posix(): file for folder in folders for file in folder.rglob("*.py")}
        files = {
            name: file for name, file in files.items() if file.is_file()
        }  # skips a broken link, such as an editor's lock file
    for name, file in sorted(files.items()):
        content = file.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _find_version(package: str) -> str:
    name = find_distribution(package)
    return "unknown" if name is None else version(name)


def _describe(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
