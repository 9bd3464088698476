"""Collect in one folder all files that `run.py` needs on a machine without internet access.

    python benchmarks/gpu/prepare.py --out .gpu --data FOLDER_OF_FASHIONMNIST

The folder holds wheels of this package and of the packages that the machine lacks, the sources of the tests and
benchmarks, the data set and `run.py` itself. The machine needs Python 3.12 for x86-64 Linux with PyTorch, torchvision,
NumPy, SciPy, scikit-learn, pandas, matplotlib, Pillow, psutil, safetensors and pytest. The folder lacks MLflow, because
searches run without it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).parents[2]
PACKAGES = (
    "alembic>=1.14",
    "hypothesis>=6.115",
    "jinja2>=3.1",
    "nvidia-ml-py>=12",
    "packaging>=23.0",
    "plotly>=6.0",
    "pydantic>=2.9",
    "pytest-timeout>=2.3",
    "rich>=13.9",
    "ruamel.yaml>=0.18",
    "sqlalchemy>=2.0.36",
    "sqlglot>=30",
    "starlette>=0.46",
    "threadpoolctl>=3.1",
    "typer>=0.15",
    "uvicorn>=0.30",
)
"""The dependencies that the machine may lack. None of them requires NumPy or PyTorch."""
LEFT_OUT = ("matplotlib", "mlflow", "numpy", "pandas", "pillow", "psutil", "safetensors", "scikit-learn", "scipy")
LEFT_OUT += ("torch", "torchvision")
"""The dependencies that the folder lacks: the machine has all of them except MLflow, which searches do not need."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
DATA_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
ARCHIVED = ("benchmarks", "conftest.py", "pyproject.toml", "tests")
RUNNERS = ("run.py", "results.py", "steps.py")
"""The files that run before anything is installed."""
MAX_BYTES = 64 << 20


def download_wheels(folder: Path) -> None:
    """Download the wheels for the target machine, which may differ from this machine."""
    platforms = [argument for platform in PLATFORMS for argument in ("--platform", platform)]
    target = ["--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:", *platforms]
    run([sys.executable, "-m", "pip", "download", "--quiet", *target, "--dest", str(folder), *PACKAGES])


def build_wheel(folder: Path) -> None:
    """Build the wheel of this package from the committed sources."""
    source = folder.parent / "build"
    source.mkdir()
    archive = folder.parent / "build.tar"
    run(["git", "-C", str(SOURCES), "archive", "--output", str(archive), "HEAD"])
    shutil.unpack_archive(archive, source)
    archive.unlink()
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    run([sys.executable, "-m", "pip", "wheel", *options, str(source)])
    shutil.rmtree(source)


def archive_sources(file: Path) -> None:
    """Archive the tests and benchmarks."""
    listed = subprocess.run(
        ["git", "-C", str(SOURCES), "ls-tree", "--name-only", "HEAD"], capture_output=True, text=True, check=True
    )
    paths = [path for path in ARCHIVED if path in listed.stdout.split()]
    run(["git", "-C", str(SOURCES), "archive", "--format=tar.gz", "--output", str(file), "HEAD", *paths])


def copy_data(source: Path, folder: Path) -> None:
    """Copy the four files of FashionMNIST, compressed or not, from any folder below `source`."""
    folder.mkdir()
    for name in DATA_FILES:
        found = [*source.rglob(f"{name}.gz"), *source.rglob(name)]
        if not found:
            sys.exit(f"{source} has no file {name} or {name}.gz; give the folder of FashionMNIST's four files")
        shutil.copy(found[0], folder)


def current_commit() -> str:
    """Return the commit, marked if the sources have changes that the bundle lacks."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(SOURCES), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("-changed" if git("status", "--porcelain", "-uno") else "")


def run(command: Sequence[str]) -> None:
    """Run a command; exit with a message if it fails."""
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(f"{' '.join(command[:6])} … failed with status {status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(".gpu"),
        help="folder of the bundle, default: .gpu; an existing bundle is replaced",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of FashionMNIST's files; without this option, the run uses the digits of scikit-learn",
    )
    options = parser.parse_args()
    out = options.out.resolve()
    if out.exists() and not (out / "run.py").exists() and any(out.iterdir()):
        sys.exit(f"{out} is not empty and is not a bundle; name another folder")
    shutil.rmtree(out, ignore_errors=True)
    wheels = out / "wheels"
    wheels.mkdir(parents=True)
    download_wheels(wheels)
    build_wheel(wheels)
    archive_sources(out / "sources.tar.gz")
    for name in RUNNERS:
        shutil.copy(Path(__file__).with_name(name), out)
    (out / "commit").write_text(current_commit() + "\n")
    if options.data is not None:
        copy_data(options.data, out / "FashionMNIST")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}: {len(list(wheels.iterdir()))} wheels, {size / (1 << 20):.1f} MiB in all")
    if size >= MAX_BYTES:
        sys.exit(f"the bundle must be smaller than {MAX_BYTES >> 20} MiB")


if __name__ == "__main__":
    main()
