#!/usr/bin/env bash
# The README's picture: a real run of the demo, drawn by the command line itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
eatnas=(.venv/bin/eatnas-db --home "$home")
"${eatnas[@]}" demo
"${eatnas[@]}" query quality demo-small-1 --picture docs/pictures/quality.png
