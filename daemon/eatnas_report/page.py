"""A search as one web page: everything in it, nothing fetched, and nothing run but what we wrote ourselves."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from string import Template
from typing import Any, Final

from plotly.offline import get_plotlyjs

from eatnas_report import figures
from eatnas_report.data import Findings
from eatnas_report.figures import Drawing
from eatnas_report.formats import span, time_in_words

MOST_CAUSES: Final = 10
MOST_FAILURES: Final = 20
MOST_ROWS: Final = 50
MOST_SIGNS: Final = 500
"""Of a failure's message."""

_DRAW: Final = """
const figures = [...document.querySelectorAll(".plot")];
for (const figure of figures) {
  const drawing = JSON.parse(document.getElementById(figure.id + "-data").textContent);
  // Few buttons: where there is no mouse they are always there, beside the legend.
  const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  Plotly.newPlot(figure, drawing.data, drawing.layout, {displaylogo: false, responsive: true, modeBarButtons: buttons});
}
// Paper is narrower than most windows, and a figure does not shrink by itself.
addEventListener("beforeprint", () => {
  for (const figure of figures) Plotly.relayout(figure, {width: 660});
});
addEventListener("afterprint", () => {
  for (const figure of figures) Plotly.relayout(figure, {width: null, autosize: true});
});
"""
_STYLE: Final = """
body { font: 16px/1.45 system-ui, sans-serif; color: #000; background: #fff; max-width: 1120px; margin: 0 auto;
  padding: 1rem; }
h1 { margin: 0; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .6rem; padding-top: .5rem; border-top: 2px solid #000; }
.muted, figcaption { color: #444; font-size: .88rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .8rem; }
dl div { border: 1px solid #999; border-radius: 6px; padding: .5rem .8rem; }
dt { color: #444; font-size: .82rem; }
dd { margin: 0; font-size: 1.12rem; overflow-wrap: anywhere; }
dl div.wide { grid-column: 1 / -1; }
.wide dd, code { font-family: ui-monospace, monospace; font-size: .85rem; overflow-wrap: anywhere; }
.drawings { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 1 1 100%; min-width: 0; }
figure.half { flex: 0 0 calc(50% - .5rem); }
@media (max-width: 900px) { figure.half { flex: 1 1 100%; } }
.column { flex: 1 1 26rem; min-width: 0; }
figcaption { padding: 0 0 .6rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0; }
th, td { border-bottom: 1px solid #bbb; padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.text { white-space: pre-wrap; }
td.text:last-child { overflow-wrap: anywhere; min-width: 12rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 12px; }
  figure, tr, dl div { break-inside: avoid; }
  h2 { break-after: avoid; }
  .drawings { display: block; }
  .modebar-container { display: none; }
}
@page { margin: 15mm; }
"""
_PAGE: Final = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$name: eatnas-db report</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$name</h1>
<p class="muted">$subtitle</p>
</header>
<noscript><p><strong>The figures need JavaScript; the tables do not.</strong></p></noscript>
<main>
$sections
</main>
<script>$plotly</script>
<script>$draw</script>
</body>
</html>
""")


def page(found: Findings) -> str:
    """The whole page."""
    plotly = get_plotlyjs()
    allowed = " ".join(map(_digest, (plotly, _DRAW)))
    sections = [
        _section("At a glance", _glance(found)),
        _section("Quality of the population", _drawn(figures.quality(found), "The population has no member yet.")),
        _section("Accuracy against mult-adds", _drawn(figures.front(found), "Nothing is scored yet.")),
        _section("The best", _leaders(found)),
        _section("How the best came to be", _drawn(figures.family(found), "Nothing is scored yet."), _line(found)),
        _section("Primitives over time", _drawn(figures.primitives(found), "The population has no member yet.")),
        _section("Failures", _drawn(figures.failures(found), "No attempt failed or was lost."), _failures(found)),
        _section("Utilisation", _drawn(figures.utilisation(found), "Nothing was trained yet."), _time(found)),
        _section("Recipe", _spec(found)),
        _section("Versions", _versions(found)),
    ]
    source = f", from {found.source}" if found.source else ""
    subtitle = f"{found.search.kind}{source}; as the record stood at {time_in_words(found.now)} UTC"
    return _PAGE.substitute(
        # The browser itself refuses every address, and every script but these two.
        policy=f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:",
        name=_text(found.search.name),
        style=_STYLE,
        subtitle=_text(subtitle),
        sections="\n".join(sections),
        plotly=plotly,
        draw=_DRAW,
    )


def _glance(found: Findings) -> str:
    progress, search = found.progress, found.search
    limit = "" if progress.budget_device_seconds is None else f" of {span(progress.budget_device_seconds)}"
    cards = [
        ("status", search.status),
        ("candidates", f"{progress.done:,} of {progress.budget:,}"),
        ("scored, failed, in training", f"{progress.scored:,}, {progress.failed:,}, {progress.leased:,}"),
        ("compute on devices", f"{span(progress.device_seconds)}{limit}"),
    ]
    if found.fittest is not None:
        cards.append(("best by score", f"{found.fittest.fitness:.4f}, candidate {found.fittest.id}"))
    if found.best is not None and found.best.yardstick is not None:
        told = _measured(found.best.yardstick, found.best.yardstick_spread)
        cards.append(("best by yardstick", f"{told}, candidate {found.best.id}"))
    if found.best is not None and found.best.test is not None:
        models = f"{found.best.test_seeds} final model{'' if found.best.test_seeds == 1 else 's'}"
        told = _measured(found.best.test, found.best.test_spread)
        cards.append(("its accuracy on the test part", f"{told}, {models}"))
    if progress.started_at is not None:
        cards.append(("begun", f"{time_in_words(progress.started_at)} UTC"))
    if progress.finished_at is not None:
        cards.append(("finished", f"{time_in_words(progress.finished_at)} UTC"))
    told = "".join(f"<div><dt>{_text(term)}</dt><dd>{_text(words)}</dd></div>" for term, words in cards)
    if found.fingerprint is None:
        over, print_ = "fingerprint", f"of so many candidates it takes long: eatnas-db query fingerprint {search.name}"
    else:
        over = f"fingerprint, over {found.fingerprint.candidates:,} candidates"
        print_ = found.fingerprint.sha256
    return f'<dl>{told}<div class="wide"><dt>{_text(over)}</dt><dd>{_text(print_)}</dd></div></dl>'


def _measured(mean: float, spread: float | None) -> str:
    return f"{mean:.4f}" if spread is None else f"{mean:.4f} ± {spread:.4f}"


def _leaders(found: Findings) -> str:
    if not found.leaders:
        return "<p>Nothing is scored yet.</p>"
    measures = [name for name in ("yardstick", "test") if any(getattr(one, name) is not None for one in found.leaders)]
    columns = ("id", "birth", "fitness", *measures, "params", "mult-adds", "origin", "code")
    rows = [
        (
            one.id,
            one.birth,
            one.fitness,
            *(getattr(one, name) for name in measures),
            one.params,
            one.mult_adds,
            one.origin,
            # A long code breaks between its blocks.
            one.code.replace("/", "/\u200b"),
        )
        for one in found.leaders
    ]
    return _table(columns, rows)


def _line(found: Findings) -> str:
    line = found.lineage[::-1]
    if not line:
        return ""
    told = line if len(line) <= MOST_ROWS else line[-MOST_ROWS:]
    head = "" if len(told) == found.generations else f"<p>The last {len(told)} of those that are drawn:</p>"
    rows = [
        (one.id, one.search, one.birth, one.origin, ", ".join(one.changes) or "nothing", one.fitness, one.gain)
        for one in told
    ]
    return head + _table(("id", "search", "birth", "origin", "changed", "fitness", "gain"), rows)


def _failures(found: Findings) -> str:
    if not found.failures:
        return ""
    newest = sorted(found.failures, key=lambda one: one.ended_at)[-MOST_FAILURES:][::-1]
    more = f"The newest {len(newest)} of {len(found.failures):,}:" if len(newest) < len(found.failures) else ""
    rows = [
        (one.candidate_id, one.attempt, one.state, one.failure, one.device_seconds, (one.message or "")[:MOST_SIGNS])
        for one in newest
    ]
    columns = ("candidate", "attempt", "candidate's state", "failure", "device seconds", "message")
    return f"<p>{more}</p>" + _table(columns, rows)


def _time(found: Findings) -> str:
    told = found.utilisation
    rows = [("wall time, first attempt to last, pauses included", span(told.wall_seconds))]
    rows.append(("time on devices", span(told.device_seconds)))
    if told.candidates_per_hour is not None:
        rows.append(("scored in an hour", f"{told.candidates_per_hour:,.1f}"))
    if told.busy is not None:
        rows.append(("slots busy with it, on average", f"{told.busy:.0%}"))
    if not told.slots:
        return ""
    # Of many slots those reasons that took most.
    causes: dict[str, float] = defaultdict(float)
    for one in told.idle:
        causes[one.cause] += one.seconds
    whole = told.wall_seconds * len(told.slots)
    most = sorted(causes.items(), key=lambda one: -one[1])[:MOST_CAUSES]
    lost = [(why, span(seconds), f"{seconds / whole:.1%}") for why, seconds in most]
    if told.training is not None:
        lost.insert(0, ("(inside training and validation steps)", span(told.device_seconds), f"{told.training:.1%}"))
    return _table(("", ""), rows) + _table(("where the slots' time went", "in all", "share"), lost)


def _spec(found: Findings) -> str:
    rows = [(key, _given(value)) for key, value in _flat(found.search.spec)]
    rows.append(("(data digest)", found.search.data_digest))
    half = -(-len(rows) // 2)
    return (
        '<div class="drawings">'
        + "".join(f'<div class="column">{_table(("key", "value"), part)}</div>' for part in (rows[:half], rows[half:]))
        + "</div>"
    )


def _given(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _versions(found: Findings) -> str:
    if not found.scores:
        return "<p>Nothing is scored yet.</p>"
    score = found.scores[0]
    rows = [*score.versions.items(), ("device", score.device)]
    return "<p>What the best was trained with:</p>" + _table(("what", "version"), rows)


def _flat(tree: dict[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield path + key, value


def _section(title: str, *parts: str) -> str:
    return "\n".join([f"<section>\n<h2>{title}</h2>", *parts, "</section>"])


def _drawn(drawings: Sequence[Drawing], without: str) -> str:
    if not drawings:
        return f"<p>{without}</p>"
    return f'<div class="drawings">{"".join(map(_figure, drawings))}</div>'


def _figure(drawing: Drawing) -> str:
    # Within a script nothing but its end is markup.
    data = str(drawing.figure.to_json()).replace("<", "\\u003c")
    caption = _text(drawing.caption)
    return (
        f"<figure{' class=half' if drawing.half else ''}>"
        f'<div class="plot" id="{drawing.id}" role="img" aria-label="{caption}"></div>'
        f"<figcaption>{caption}</figcaption>"
        f'<script type="application/json" id="{drawing.id}-data">{data}</script></figure>'
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The last column has what is long, and is broken anywhere."""
    right = [all(isinstance(row[at], int | float | None) for row in rows) for at in range(len(columns))]
    kinds = ["number" if one else "text" for one in right]
    head = "".join(f'<th class="{kind}">{_text(name)}</th>' for kind, name in zip(kinds, columns, strict=True))
    lines = [
        "".join(
            f'<td class="{kind}">{_text(_shown(name, value))}</td>'
            for kind, name, value in zip(kinds, columns, row, strict=True)
        )
        for row in rows
    ]
    header = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="table"><table>{header}<tbody>{body}</tbody></table></div>'


def _shown(column: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:+.4f}" if column == "gain" else f"{value:.4f}"
    # Not so the numbers of candidates, which are to be typed again.
    return f"{value:,}" if column in ("params", "mult-adds") else str(value)


def _text(words: str) -> str:
    # Messages come from programs that may have written anything.
    return escape("".join(sign if sign.isprintable() or sign in "\n\u200b" else "�" for sign in words))


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
