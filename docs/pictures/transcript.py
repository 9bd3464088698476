"""Put the shortened output of `eatnas-db demo` into the README, and store the demo's fingerprint beside the pictures.

eatnas-db demo | python docs/pictures/transcript.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
FINGERPRINT = Path(__file__).with_name("demo-fingerprint.txt")
BLOCK = re.compile(r"(<!-- demo transcript -->\n).*?(<!-- /demo transcript -->)", re.DOTALL)
PROGRESS = re.compile(r"^\S+  \d+/\d+  ")
INTRODUCTION = "The output of `make demo`, without the codes of the networks. It takes two minutes on two cores:\n"


def shorten(output: str) -> str:
    """Return the output without the progress of unfinished searches and without the column of codes."""
    lines: list[str] = []
    code_column: int | None = None
    for line in output.splitlines():
        if PROGRESS.match(line) and not line.endswith("finished"):
            continue
        if re.search(r"\bbirth\b.*\bcode\b", line):
            code_column = line.index("code")
        elif not line.strip():
            code_column = None
        shortened = line[:code_column].rstrip()
        if shortened or (lines and lines[-1]):
            lines.append(shortened)
    return "\n".join(lines).split("\nTry next:")[0].rstrip()


def narrow_images(text: str) -> str:
    """Narrow the column of images, because its paths were absolute when the command chose the width."""
    lines = text.split("\n")
    for start, line in enumerate(lines):
        if re.match(r"  image +rank ", line):
            excess = line.index("rank") + 3 - re.search(r"(?<= )\d+ ", lines[start + 2]).start()  # type: ignore[union-attr]
            lines[start] = line.replace(" " * excess, "", 1)
            lines[start + 1] = lines[start + 1][: len(lines[start + 1]) - excess]
    return "\n".join(lines)


def main() -> None:
    """Rewrite the block in the README from standard input."""
    text = narrow_images(shorten(sys.stdin.read()))
    fingerprint = re.search(r"^[0-9a-f]{64}$", text, re.MULTILINE)
    if fingerprint is None:
        sys.exit("the demo's output has no fingerprint")
    FINGERPRINT.write_text(fingerprint[0] + "\n")
    block = f"{INTRODUCTION}\n```text\n{text}\n```\n"
    README.write_text(BLOCK.sub(lambda found: found[1] + block + found[2], README.read_text()))


if __name__ == "__main__":
    main()
