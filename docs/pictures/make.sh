#!/usr/bin/env bash
# Draw the pictures of the README and of the pages, and the README's transcript, from one run of the demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
eatnas=(.venv/bin/eatnas-db --home "$home/.eatnas")
pictures=docs/pictures

(cd "$home" && COLUMNS=200 "$OLDPWD/.venv/bin/eatnas-db" --home .eatnas demo) | tee "$home/demo.txt"
sed "s#$home/##g" "$home/demo.txt" | .venv/bin/python docs/pictures/transcript.py
"${eatnas[@]}" query quality demo-small-1 --picture $pictures/quality.png
"${eatnas[@]}" query lineage demo-large-1 --picture $pictures/lineage.png
"${eatnas[@]}" report demo-large-1 --output "$home/report.html"
"$(command -v chromium || command -v chromium-browser || command -v google-chrome)" --headless --no-sandbox \
  --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update \
  --disable-sync --user-data-dir="$home/chromium" --hide-scrollbars --window-size=1180,1460 \
  --virtual-time-budget=5000 --screenshot=$pictures/report.png "file://$home/report.html"
