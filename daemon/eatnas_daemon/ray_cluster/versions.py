"""The package versions that all nodes of a Ray cluster must share, and errors about the connection to a cluster."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from eatnas_db.distributions import installed_versions, require_module
from eatnas_db.errors import ConflictError, EatnasError
from eatnas_db.worker_settings import ADDRESS, require_head_address

COMPARED: Final = ("torch", "numpy")
"""The packages, besides eatnas-db itself, whose versions change the exact value of a score."""


def require_ray() -> None:
    """Raise `EatnasError` unless this machine can join a Ray cluster."""
    require_module("ray")
    if sys.platform != "linux":
        raise ConflictError("--launcher ray needs Linux; start the daemon on a Linux node of the cluster")


def find_address(environment: Mapping[str, str]) -> str:
    """Return the default address of the head: the value of Ray's own variable `RAY_ADDRESS`, or else `auto`. Raises
    `EatnasError`.
    """
    address = environment.get("RAY_ADDRESS") or "auto"
    try:
        require_head_address(address)
    except ValueError as error:
        reason = f" ({error})" if str(error) else ""
        raise EatnasError(f"RAY_ADDRESS is {address!r}{reason}; expected {ADDRESS}") from None
    return address


def compared_versions() -> dict[str, str]:
    """Return the versions that each node must have, without the local parts that name a build."""
    versions = installed_versions()
    for name in COMPARED:
        try:
            versions[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return versions


def describe_connection_error(error: BaseException, address: str) -> str:
    """Describe in one line why this machine cannot connect to a cluster, and what to do."""
    text = " ".join(str(error).split())
    if "Version mismatch" in text:
        return (
            f"the Ray cluster at {address} has other versions than this machine "
            f"(Ray {_ray_version()}, Python {platform.python_version()}); install equal versions on all nodes: {text}"
        )[:500]
    if address == "auto":
        return (
            "no Ray cluster runs on this machine; start its head with `ray start --head`, join one with "
            "`ray start --address HOST:PORT`, or name the head with --address HOST:PORT"
        )
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return f"the Ray head {address} cannot be reached: {text}; check --address"
    if "local raylet" in text or "node_ip_address" in text or "this node" in text.lower():
        return (
            f"this machine is not a node of the Ray cluster at {address}; join it with `ray start --address {address}`"
        )
    return f"the Ray head at {address} does not answer ({text[:200]}); check --address, or start it with `ray start`"


def _ray_version() -> str:
    try:
        return version("ray")
    except PackageNotFoundError:
        return "unknown" if importlib.util.find_spec("ray") else "missing"
