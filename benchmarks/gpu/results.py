"""The results of a part: a JSON file and a page. This module needs only the standard library."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NO_TIME_LEFT = "no time left"
RUNNING = "running"
PAGE_LINES = 25
"""The page shows this many of the last lines of output for each step that has not passed."""


class Results:
    """The results of a part, written to their files before, during and after each step."""

    def __init__(
        self, out: Path, part: str, facts: dict[str, Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.content: dict[str, Any] = {"part": part, **facts, "seconds": 0.0, "steps": []}
        self._files = out / f"gpu-{part}.json", out / f"gpu-{part}.md"
        self._clock, self._started = clock, clock()

    @property
    def seconds(self) -> float:
        """Return the seconds since the part began."""
        return self._clock() - self._started

    def add(self, row: dict[str, Any]) -> None:
        """Add the result of a step, which may still be running, and write both files."""
        self.content["steps"].append(row)
        self.write()

    def write(self) -> None:
        """Write both files. If the process is killed meanwhile, each file has its old or its new content."""
        self.content["seconds"] = round(self.seconds, 1)
        for file, text in zip(
            self._files, (json.dumps(self.content, indent=1) + "\n", format_page(self.content)), strict=True
        ):
            partial = file.with_suffix(f"{file.suffix}.partial")
            partial.write_text(text)
            partial.replace(file)


def read_facts(file: Path) -> dict[str, Any]:
    """Return the measurements that a step has recorded so far, which may be none."""
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return facts


def format_page(content: dict[str, Any]) -> str:
    """Return the results as Markdown: a table of the steps, then the figures and the output of each."""
    lines = [f"# GPU run, part {content['part']}", ""]
    lines += [f"- {name}: {content[name]}" for name in ("commit", "started_at", "device", "seconds")]
    lines += ["", "| step | outcome | seconds | limit | purpose |", "|---|---|---|---|---|"]
    for row in content["steps"]:
        lines.append(f"| {row['name']} | {row['outcome']} | {row['seconds']} | {row['limit']} | {row['shows']} |")
    if missing := [row["name"] for row in content["steps"] if row["outcome"] == NO_TIME_LEFT]:
        options = f"`--steps {' '.join(missing)} --out ANOTHER_FOLDER`"
        lines += [
            "",
            f"No time was left for some steps. Run them with {options}. A run into this folder replaces the files.",
        ]
    for row in content["steps"]:
        if row["outcome"] != NO_TIME_LEFT:
            lines += ["", f"## {row['name']}: {row['outcome']}", *format_facts(row["facts"])]
            if row["output"] and row["outcome"] != "passed":
                lines += ["", "```text", *row["output"][-PAGE_LINES:], "```"]
    return "\n".join(lines) + "\n"


def format_facts(facts: dict[str, Any]) -> list[str]:
    """Return the facts of a step as Markdown, the bars first."""
    lines = []
    if bars := facts.get("bars"):
        lines += ["", *format_table(bars)]
    for name, value in facts.items():
        if name != "bars":
            lines += format_fact(name, value)
    return lines


def format_fact(name: str, value: Any) -> list[str]:
    """Return a fact as Markdown: rows as a table, lines as a block, and a dictionary as a line before its rows."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return ["", f"`{name}`", "", *format_table(value)]
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return ["", f"`{name}`", "", "```text", *value, "```"]
    if isinstance(value, dict):
        inner = {key: rows for key, rows in value.items() if isinstance(rows, list) and rows}
        rest = ", ".join(f"{key} {format_value(one)}" for key, one in value.items() if key not in inner)
        return ["", f"`{name}`: {rest}", *(line for key, rows in inner.items() for line in format_fact(key, rows))]
    return ["", f"`{name}`: {format_value(value)}"]


def format_value(value: Any) -> str:
    """Return the text of a value for a cell, with rounded numbers. The JSON file has all digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def format_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return rows as a Markdown table with every column that occurs in a row."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [format_value(row.get(name, "")).replace("|", "\\|").replace("\n", " ") for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
