"""Check that searches with the example packages of plug-ins can be queried after the packages are uninstalled.

The environment is a new venv that also sees the packages of this environment. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples/plugins"
SEARCHES = {
    "ghosts": {
        "name": "ghosts",
        "space": "ghost-tiny",
        "data": {"name": "digits"},
        "training": {"epochs": 1, "augment": "none"},
        "evolution": {"population": 3, "tournament": 2, "lag": 3},
        "budget": {"candidates": 6},
        "reevaluation": {"top": 0},
    },
    "shapes": EXAMPLES / "dataset/search.yaml",
    "words": EXAMPLES / "training/words.yaml",
}
PACKAGES = ("eatnas-ghost", "eatnas-shapes", "eatnas-words")
QUERIES = ("query best", "query lineage", "query fingerprint", "query quality", "query primitives")


class Environment:
    """A new venv for further packages, which also sees the packages of this process."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self._python = folder / "venv/bin/python"
        own = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
        shown = [path for path in sys.path[1:] if Path(path).is_dir()]
        (own / "shown.pth").write_text("\n".join(shown))
        self._environment = {**os.environ, "EATNAS_HOME": str(folder / "home"), "EATNAS_MLFLOW": "off"}
        self._environment.pop("PYTHONPATH", None)
        self._folder = folder

    def python(self, *arguments: str | Path) -> str:
        """Run Python in the environment and return its output."""
        done = subprocess.run(
            [self._python, *arguments],
            env=self._environment,
            cwd=self._folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    def eatnas(self, line: str, *arguments: str | Path) -> str:
        """Run a command of eatnas-db and return its output."""
        return self.python("-m", "eatnas_cli", *line.split(), *arguments)


def answer_all(environment: Environment) -> dict[str, str]:
    """Return the answers of all queries about all searches."""
    lines = [f"{query} {name} --format json" for query in QUERIES for name in SEARCHES]
    return {line: environment.eatnas(line) for line in lines}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="eatnas-plugins-") as name:
        folder = Path(name)
        environment = Environment(folder)
        for source in sorted(EXAMPLES.iterdir()):
            shutil.copytree(source, folder / "sources" / source.name)
            build = ("-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
            environment.python(*build, "--wheel-dir", folder / "wheels", folder / "sources" / source.name)
        wheels = sorted((folder / "wheels").glob("*.whl"))
        assert len(wheels) == len(PACKAGES), wheels
        environment.python("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", *wheels)
        print(f"installed {', '.join(wheel.name for wheel in wheels)}", flush=True)
        environment.eatnas("init")
        for search, spec in SEARCHES.items():
            file = spec
            if isinstance(spec, dict):
                file = folder / f"{search}.yaml"
                file.write_text(json.dumps(spec))
            environment.eatnas("search create --set budget.candidates=6 --set reevaluation.top=0", file)
            environment.eatnas(f"run {search} --slots 2")
            print(f"searched {search}", flush=True)
        before = answer_all(environment)
        environment.python("-m", "pip", "uninstall", "--quiet", "--yes", *PACKAGES)
        after = answer_all(environment)
        differing = [line for line, answer in after.items() if answer != before[line]]
        assert not differing, differing
        environment.eatnas("db check")
        print(f"{len(after)} answers are the same without the packages")


if __name__ == "__main__":
    main()
