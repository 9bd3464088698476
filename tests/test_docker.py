"""The container image and its compose files are checked without docker. The image is built if docker is available."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
WHEELS = "dist/*.whl"  # `make wheel` builds them


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments, each on one line."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def arguments_of(name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions() if instruction == name]


def compose(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = YAML(typ="safe").load((DOCKER / name).read_text())
    return tree


def is_pinned(image: str) -> bool:
    """Return whether the tag of an image names a complete version."""
    return re.search(r":\d+\.\d+[\w.-]*$", image) is not None


def test_every_stage_has_a_pinned_base() -> None:
    (base,) = [value for value in arguments_of("ARG") if value.startswith("BASE=")]
    assert is_pinned(base)
    assert {stage.split()[0] for stage in arguments_of("FROM")} == {"${BASE}"}


def test_the_image_runs_without_root_under_an_init() -> None:
    names = [name for name, _ in instructions()]
    (user,) = arguments_of("USER")
    uid, group = user.split(":")
    assert min(int(uid), int(group)) >= 1000
    # No instruction after USER may require root.
    assert not {"RUN", "COPY"} & set(names[names.index("USER") :])
    (entry,) = arguments_of("ENTRYPOINT")
    assert entry == '["tini", "--", "eatnas-db"]'
    assert any("install --yes --no-install-recommends tini" in run for run in arguments_of("RUN"))
    assert names.count("HEALTHCHECK") == names.count("CMD") == 1


def test_image_layers_keep_no_downloads() -> None:
    for run in arguments_of("RUN"):
        assert "apt-get install" not in run or "rm -rf /var/lib/apt/lists/*" in run
        assert len(re.findall("pip install", run)) == len(re.findall("pip install --no-cache-dir", run))
        assert "sudo" not in run
        assert "ADD" not in run


def test_copied_files_exist_and_are_not_ignored() -> None:
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text().split()
    assert ignore[0] == "*"
    for copied in arguments_of("COPY"):
        if copied.startswith("--from="):
            continue
        *sources, _ = copied.split()
        for source in sources:
            assert source == WHEELS or list(ROOT.glob(source)), source
            assert f"!{source}" in ignore


def test_extras_of_the_image_exist() -> None:
    (extras,) = [value for value in arguments_of("ARG") if value.startswith("EXTRAS=")]
    configuration = tomllib.loads((ROOT / "distributions/eatnas-db/pyproject.toml").read_text())
    assert set(extras.removeprefix("EXTRAS=").split(",")) <= set(configuration["project"]["optional-dependencies"])


def test_compose_file_is_complete() -> None:
    tree = compose("compose.yaml")
    services = tree["services"]
    assert set(services) == {"postgres", "mlflow", "tables", "daemon"}
    for name, service in services.items():
        assert is_pinned(service["image"]) or service["build"]["dockerfile"] == "docker/Dockerfile", name
        for needed in service.get("depends_on", {}):
            assert needed in services
        for volume in service["volumes"]:
            assert volume.split(":")[0] in tree["volumes"]
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "nothing is open to the network"
        passwords = [text for key, text in service["environment"].items() if "PASSWORD" in key]
        assert all(text.startswith("${POSTGRES_PASSWORD:?") for text in passwords)
    declared = {value.partition("=")[0] for value in arguments_of("ARG")}
    assert set(services["daemon"]["build"]["args"]) <= declared


def test_cuda_file_changes_only_services_that_exist() -> None:
    changes = compose("compose.cuda.yaml")["services"]
    assert set(changes) <= set(compose("compose.yaml")["services"])
    assert changes["daemon"]["build"]["args"] == {"DEVICE": "cuda"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_image_builds_and_answers() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no docker engine runs here")
    subprocess.run(["make", "image"], cwd=ROOT, check=True)
    command = [docker, "run", "--rm", "--no-healthcheck", "eatnas-db:cpu"]
    assert "Usage" in subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
