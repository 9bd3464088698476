"""Write sentences about hosts that have disappeared, and about hosts that have set a search aside."""

from __future__ import annotations

import time
from collections.abc import Sequence

from eatnas_db.queries.holds import RecordedHold
from eatnas_db.queries.hosts import RecordedHost
from eatnas_report.formats import format_time


def describe_lost_hosts(hosts: Sequence[RecordedHost], now: float | None = None) -> list[str]:
    """Return a sentence for each host that disappeared without being stopped. It says what happens to the host's
    candidates.
    """
    sentences = []
    for host in hosts:
        if host.lost:
            minutes = max(0.0, (time.time() if now is None else now) - host.seen_at) / 60
            what = "will continue on other hosts within a minute" if host.in_training else "continued on other hosts"
            sentences.append(f"host {host.name} has sent no heartbeat for {minutes:.0f} min; its candidates {what}")
    return sentences


def describe_hold(hold: RecordedHold) -> str:
    """Describe a hold: its host, its start, its reason, and the time of the next attempt."""
    since, retry = format_time(hold.since_at), format_time(hold.retry_at)
    return f"host {hold.host} has set {hold.search} aside since {since} and tries again at {retry}: {hold.reason}"
